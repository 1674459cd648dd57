"""What can be exported: any tokenizer that says what it is, gives its graphs, and has a reference to be judged by.

All that `export/` knows of a tokenizer is here; `tokenizers/<tokenizer>.py` is the one place that knows more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqrae.calibration.layers import Role
from vqrae.export.form import Form
from vqrae.runtimes.code_space import CodeSpace
from vqrae.runtimes.manifest import CheckpointIdentity, Preprocessing, TensorSpec, Tokens

TRACED_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """What a graph is called, how its module is made, and its signature."""

    name: str
    """`encode` and `decode` are what a bundle is used by; others are parts of them."""
    module: Callable[[Form], nn.Module]
    """Makes what is traced, in a form; it takes and gives what the signature says."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    roles: Mapping[str, Role]
    """Every module of it that multiplies matrices, by its name in the graph's module -> what it is to the tokenizer.
    At INT8 a module without a role is refused."""

    @property
    def scores(self) -> tuple[str, ...]:
        """The modules that score the codes."""
        return tuple(module for module, role in self.roles.items() if role == "scores")

    def example(self) -> Tensor:
        """An input to trace with. A dynamic batch is traced at 2, since 1 may be inferred to be a constant."""
        shape = [TRACED_BATCH if isinstance(side, str) else side for side in self.input.shape]
        return torch.zeros(shape, dtype=getattr(torch, self.input.dtype))

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim]] | None:
        """What `torch.export` is told of the input; None where the batch is fixed."""
        axis = self.input.shape[0]
        return ({0: torch.export.Dim(axis)},) if isinstance(axis, str) else None


def inside(name: str, roles: Mapping[str, Role]) -> dict[str, Role]:
    """The roles of a module's parts, as of the module that has it by this name; its own is called ""."""
    return {f"{name}.{layer}" if layer else name: role for layer, role in roles.items()}


class ReferenceModel(Protocol):
    """The trained tokenizer as it is, in FP32: what every deployed form of it is judged by.

    `encode` is not called where no graph encodes, nor `decode` where none decodes.
    """

    @property
    def tokens(self) -> Tokens:
        """Its token grid, how many codes there are and how many a token has, and how wide the features are, if told."""
        ...

    @property
    def space(self) -> CodeSpace | None:
        """What its features and its codes are to each other; None where no graph encodes."""
        ...

    def encode(self, images: NDArray[np.uint8], /) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Images uint8 (B, H, W, 3) -> indices int32 (B, h, w) or (B, levels, h, w), features float32 (B, h·w, C).

        The features are those that `space` is of, whether a bundle tells them or not.
        """
        ...

    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        """Indices int32 (B, h, w) or (B, levels, h, w) -> images uint8 (B, H, W, 3)."""
        ...


class Deployable(ReferenceModel, Protocol):
    """A tokenizer that bundles are made of, at one image size."""

    @property
    def name(self) -> str:
        """What its bundles are called, before the format and the precision."""
        ...

    @property
    def identity(self) -> CheckpointIdentity:
        """The checkpoint that it is."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made fit, and their size."""
        ...

    def graphs(self, batch: int | str = "batch", *, split: bool = False) -> list[GraphPlan]:
        """The graphs of a bundle: `encode`, `decode` or both, as `manifest.signature` gives them.

        Args:
            batch: a size, or the name of the dynamic axis.
            split: beside `encode` and `decode` also the parts that they are composed of, where there are any.
        """
        ...
