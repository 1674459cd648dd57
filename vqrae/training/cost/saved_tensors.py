"""The tensors that a forward pass keeps for its backward pass, and the bytes that they hold."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Storages = dict[int, torch.UntypedStorage]


class SavedTensors:
    """Counts each storage once, real or faked, that is saved while it is entered; those of the modules not at all."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """`modules` own the parameters and buffers that are counted elsewhere."""
        self._storages: Storages = {}  # held, so that no address is taken twice
        self._owned: Storages = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                _add(self._owned, tensor)
        self._hooks = saved_tensors_hooks(self._note, lambda tensor: tensor)

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    @property
    def nbytes(self) -> int:
        """Bytes that are held so far."""
        return sum(storage.nbytes() for storage in self._storages.values())

    def _note(self, tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in self._owned:
            _add(self._storages, tensor)
        return tensor


class BlockBytes:
    """What one block adds to the saved tensors, and the size of its input, each time that it runs forward."""

    def __init__(self, block: nn.Module, saved: SavedTensors) -> None:
        self.saved = self.input = 0
        self._tally = saved
        self._before = 0
        block.register_forward_pre_hook(self._enter)
        block.register_forward_hook(self._leave)

    def _enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before = self._tally.nbytes
        self.input = inputs[0].nbytes

    def _leave(self, _: nn.Module, __: tuple[Any, ...], ___: Any) -> None:
        self.saved = self._tally.nbytes - self._before


def _add(storages: Storages, tensor: Tensor) -> None:
    storage = tensor.untyped_storage()
    storages[storage._cdata] = storage
