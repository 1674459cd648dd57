"""What a phase of training is: pre-training, stage 1 and stage 2 each are one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vqrae.model.layers import Block
from vqrae.training.config import PhaseConfig, StageConfig
from vqrae.training.losses.adversarial import Adversary


class Outcome(NamedTuple):
    """What an objective says of a batch."""

    terms: dict[str, Tensor]
    """The weighted terms of the loss, by name; float32 scalars, means over the batch."""
    decoded: Tensor | None = None
    """Decoded pixels (B, 3, H, W), for a discriminator."""


class Phase(ABC):
    """What is trained, on what, at which rates, towards which objective."""

    config: PhaseConfig
    module: nn.Module
    """Everything that is trained or saved in this phase, but for a discriminator."""
    objective: nn.Module
    """A batch -> `Outcome`; holds `module` and whatever else the loss needs."""
    adversary: Adversary | None = None
    """The discriminator; the batch's first tensor is what it compares with."""

    @property
    def adversarial(self) -> StageConfig | None:
        """How the discriminator learns, and from which step on; None without one."""
        return None

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with its peak `lr` and, as a fraction of it, its rate at the end, `end_factor`."""

    @abstractmethod
    def batch(self, step: int, rows: range) -> tuple[Tensor, ...]:
        """These rows of a step's batch; steps come in order, and a step's rows in order."""

    def data_state(self) -> dict[str, Any]:
        """This process's position in the data, for JSON; empty where a batch is a function of its step."""
        return {}

    @property
    def skipped(self) -> Mapping[str, str]:
        """Name -> why it could not be read, of the images that this process left out."""
        return {}

    def load_data_state(self, state: dict[str, Any]) -> None:
        """Go on from what `data_state` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} has no position in its data")


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are not frozen, in definition order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of all networks below a module, the encoders' library's and our own, in order.

    They are what is compiled, checkpointed and sharded one by one.
    """
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer | Block)]
