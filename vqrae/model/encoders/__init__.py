"""The families of vision encoders: one file each, and one row here.

A family is part of a configuration, which is read without torch: it is named for its types alone.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ValidationError

from vqrae.runtimes.json_text import first_problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vqrae.model.parts import EncoderParts

FAMILIES: dict[str, str] = {
    "siglip_vision_model": "vqrae.model.encoders.siglip:Siglip",
    "dinov2": "vqrae.model.encoders.dinov2:Dinov2",
    "internvl_vision": "vqrae.model.encoders.internvit:InternVit",
}
"""A family's name, which is the `model_type` of its networks' configurations -> `module:Class`."""

NOTES = frozenset(
    {
        *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder"),
        *("label2id", "model_type", "out_features", "out_indices", "output_attentions", "output_hidden_states"),
        *("problem_type", "return_dict", "stage_names", "torch_dtype", "transformers_version"),
    }
)
"""What transformers writes beside a network's own fields, and what says nothing about it: kept, not passed on."""

Triple = tuple[float, float, float]


class Shape(NamedTuple):
    """The sizes of a network."""

    width: int
    """Width C of the features."""
    depth: int
    """Number of blocks."""
    image_size: tuple[int, int]
    """(H, W) in pixels that it was trained at."""
    patch_size: tuple[int, int]
    """(H, W) in pixels of what one token sees."""


class EncoderFamily(ABC):
    """All that is particular to the networks of a family."""

    fields: ClassVar[type[BaseModel]]
    """What a network's configuration may say; unknown fields are forbidden."""
    prefix_tokens: ClassVar[int]
    """Class tokens in front of the patch tokens, which the features leave out."""
    normalization: ClassVar[tuple[Triple, Triple]]
    """Mean and standard deviation, for pixels in [0, 1], where a checkpoint does not say."""
    holders: ClassVar[Mapping[str, str]] = {}
    """`model_type` of larger checkpoints with such a network inside -> where it is in their weights, "" at the top."""
    near_misses: ClassVar[Mapping[str, str]] = {}
    """`model_type` of checkpoints that are easily taken for one of this family -> what to use instead."""
    pretrained: ClassVar[Mapping[str, bool]] = {}
    """Fields that a pretrained network is loaded with, whatever its checkpoint says."""

    @abstractmethod
    def build(self, values: Mapping[str, Any]) -> nn.Module:
        """A network with random weights, of checked values."""

    @abstractmethod
    def load(self, source: str, values: Mapping[str, Any], inside: str) -> nn.Module:
        """The network of a checkpoint, a folder or a hub's name; `inside` names it within the weights.

        Raises:
            CheckpointError: the checkpoint lacks some of its weights, or has them in other shapes.
        """

    @abstractmethod
    def save(self, network: nn.Module, folder: Path) -> None:
        """Write a network as the checkpoint that `load` reads, its `config.json` with the `model_type` beside it."""

    @abstractmethod
    def shape(self, network: nn.Module) -> Shape:
        """The sizes of a network."""

    @abstractmethod
    def hidden_states(self, network: nn.Module, pixels_B3HW: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """Outputs (B, T + h·w, C) of the blocks with these numbers, from 1, and last the features after the norm.

        For pixels of another size than the network's own, its position embeddings are interpolated.
        """

    @abstractmethod
    def positions(self, network: nn.Module) -> Tensor | None:
        """The learned position embeddings (n·n, C) of the patch tokens, to be read or copied into; None without any."""

    @abstractmethod
    def parts(self, network: nn.Module) -> EncoderParts:
        """A network taken apart, at the token grid that it was trained at."""

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that reach the network, of a configuration that holds no other ones but `NOTES`.

        Raises:
            ValueError: an unknown field, or a value out of bounds; says which.
        """
        own = {name: value for name, value in values.items() if name not in NOTES}
        try:
            self.fields.model_validate_json(json.dumps(own))
        except ValidationError as error:
            subject, got, expected = first_problem("", error.errors(include_url=False)[0])
            raise ValueError(f"{subject.removeprefix(' field ')} {got}, where {expected} is expected") from error
        return own

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of a foreign configuration, the fields that mean anything here; what else it says has no effect."""
        return {name: value for name, value in values.items() if name in self.fields.model_fields}


def encoder_family(name: str) -> EncoderFamily:
    """The family of a row of `FAMILIES`."""
    module, _, attribute = FAMILIES[name].partition(":")
    family: type[EncoderFamily] = getattr(import_module(module), attribute)
    return family()
