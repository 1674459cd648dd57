"""The processes that train together, one per device: `accelerate launch` or `torchrun` starts them.

Alone is the same code with one process. Data-parallel processes hold whole copies (`ddp`) or shards (`fsdp2`) of what
is trained; in both, the gradient is the mean over the processes, so a step is that of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from vqrae.runtimes.errors import UsageError

Strategy = Literal["ddp", "fsdp2"]


@dataclass(frozen=True)
class Share:
    """One of `count` processes that train one model together."""

    rank: int = 0
    """Number of this process, from 0."""
    count: int = 1
    """How many processes there are."""

    def rows(self, batch: range | int) -> range:
        """This process's rows of a batch: neighbours, as many as every other process has.

        Args:
            batch: the rows of the batch, or how many there are.

        Raises:
            UsageError: the processes cannot have the same number of rows.
        """
        whole = range(batch) if isinstance(batch, int) else batch
        each, left_over = divmod(len(whole), self.count)
        if left_over:
            expected = f"a multiple of the {self.count} processes"
            raise UsageError("batch", got=f"{len(whole)} images", expected=expected, remedy="change one of the two")
        return whole[self.rank * each : (self.rank + 1) * each]


class Processes:
    """This process among those that were started together."""

    def __init__(self, strategy: Strategy = "ddp") -> None:
        self.strategy = strategy
        self._accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.device: torch.device = self._accelerator.device
        self.share = Share(self._accelerator.process_index, self._accelerator.num_processes)

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.share.count == 1

    @property
    def first(self) -> bool:
        """Whether this one writes the files."""
        return self.share.rank == 0

    def distributed(self, module: nn.Module, blocks: Sequence[nn.Module], *, shard: bool = True) -> nn.Module:
        """The module on this process's device, its gradients averaged over the processes.

        Args:
            module: changed in place where it is sharded.
            blocks: parts that are gathered and released one by one; the rest of the module is gathered as a whole.
            shard: False keeps whole copies whatever the strategy: what is small is not worth gathering.
        """
        module.to(self.device)
        if self.alone:
            return module
        if self.strategy == "ddp" or not shard:
            # Buffers never change while a phase runs, so there is nothing to broadcast.
            return DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        # Not through Accelerate: on the CPU it gives plain DDP where FSDP was asked for, without a word.
        mesh = init_device_mesh(self.device.type, (self.share.count,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextmanager
    def accumulating(self, module: nn.Module, *, more: bool) -> Iterator[None]:
        """Within it, a backward pass only adds to this process's gradients if `more` passes follow in the step."""
        if isinstance(module, DistributedDataParallel) and more:
            with module.no_sync():
                yield
            return
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(not more)
        yield

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a detached tensor over the processes."""
        return tensor if self.alone else self._accelerator.reduce(tensor, reduction="mean")

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The mean of each scalar over the processes."""
        stacked = self.mean(torch.stack([value.detach().float() for value in values.values()]))
        return dict(zip(values, stacked.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.alone else self.mean(torch.tensor(float(flag), device=self.device)).item() > 0

    def gathered(self, value: Any) -> list[Any]:
        """One value of each process, in their order, everywhere."""
        return [value] if self.alone else gather_object([value])

    def wait(self) -> None:
        """Return when all processes are here."""
        self._accelerator.wait_for_everyone()


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one process would hold it; gathered from all of them if it is sharded, so all must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(target: Tensor, source: Tensor) -> None:
    """Inverse of `whole`: put a whole tensor, the same in every process, in place of `target`'s values."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)
