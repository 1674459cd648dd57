"""Networks of the transformers library. Nothing of a configuration reaches it but what a family's fields let pass.

Some of what transformers takes from a configuration runs code of a hub (`auto_map`, `_attn_implementation`), and its
own checks let sizes pass that no machine holds. It is imported when a network is made.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vqrae.model.encoders import EncoderFamily, Shape
from vqrae.model.parts import BlockParts, EncoderParts
from vqrae.runtimes.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SIGLIP_MEAN = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Width = Annotated[int, Field(ge=1, le=2**14)]
Wide = Annotated[int, Field(ge=1, le=2**16)]
Count = Annotated[int, Field(ge=1, le=256)]
Side = Annotated[int, Field(ge=1, le=2**14)]
Share = Annotated[float, Field(ge=0, lt=1)]
Scale = Annotated[float, Field(ge=-1e6, le=1e6)]
Activation = Literal["gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish"]


class NetworkFields(BaseModel):
    """Fields that all families have. What is absent is transformers' to fill."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    hidden_size: Width = 1
    num_hidden_layers: Count = 1
    num_attention_heads: Count = 1
    num_channels: Literal[3] = 3
    hidden_act: Activation = "gelu"
    layer_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6


class ClassTokenFields(NetworkFields):
    """Those of the families that were trained with dropped parts and a mask token."""

    hidden_dropout_prob: Share = 0.0
    initializer_range: Share = 0.02
    use_mask_token: bool = True


class LibraryFamily(EncoderFamily):
    """A family whose networks are transformers'."""

    library: ClassVar[tuple[str, str]]
    """Its configuration and its model there."""
    told_to_interpolate: ClassVar[bool] = False
    """Whether its networks look at an image's size only when they are told to."""

    @abstractmethod
    def block(self, layer: Any) -> BlockParts:
        """One of a network's blocks, taken apart."""

    def build(self, values: Mapping[str, Any]) -> Any:
        """See `EncoderFamily`."""
        config, model = self._classes()
        return model(config(**values))

    def load(self, source: str, values: Mapping[str, Any], inside: str) -> Any:
        """See `EncoderFamily`."""
        config, model = self._classes()
        with _quiet():
            network, info = model.from_pretrained(
                source,
                config=config(**values),
                key_mapping={rf"^(?:model\.)?{inside}\.": ""} if inside else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported in `info`, and refused below
            )
        check_loaded(source, info)
        return network

    def save(self, network: Any, folder: Path) -> None:
        """See `EncoderFamily`."""
        network.save_pretrained(folder)

    def shape(self, network: Any) -> Shape:
        """See `EncoderFamily`."""
        config = network.config
        image, patch = (
            (side, side) if isinstance(side, int) else (side[0], side[1])
            for side in (config.image_size, config.patch_size)
        )
        return Shape(config.hidden_size, config.num_hidden_layers, image, patch)

    def hidden_states(self, network: Any, pixels_B3HW: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """See `EncoderFamily`."""
        options: dict[str, Any] = {"output_hidden_states": list(depths)} if depths else {}
        if self.told_to_interpolate:
            options["interpolate_pos_encoding"] = tuple(pixels_B3HW.shape[-2:]) != self.shape(network).image_size
        out = network(pixels_B3HW, **options)
        return [*(out.hidden_states[depth] for depth in depths), out.last_hidden_state]

    def _classes(self) -> tuple[Any, Any]:
        import transformers

        config, model = self.library
        return getattr(transformers, config), getattr(transformers, model)


class ClassTokenFamily(LibraryFamily):
    """A family whose networks have a class token before the patch tokens."""

    prefix_tokens = 1
    normalization = IMAGENET_MEAN, IMAGENET_STD

    def positions(self, network: Any) -> Tensor | None:
        """See `EncoderFamily`."""
        positions = network.embeddings.position_embeddings
        return None if positions is None else positions[0, 1:]

    def parts(self, network: Any) -> EncoderParts:
        """See `EncoderFamily`."""
        embeddings = network.embeddings
        all_positions, positions = embeddings.position_embeddings, self.positions(network)
        cls_token = embeddings.cls_token.detach()
        # Where the network has none: one zero row for the class token, one that broadcasts over the patch tokens.
        none = cls_token.new_zeros(1, 1, cls_token.shape[-1])
        return EncoderParts(
            convolution=embeddings.patch_embeddings.projection,
            prefix_1TC=cls_token + (none if all_positions is None else all_positions.detach()[:, :1]),
            positions_NC=none[0] if positions is None else positions.detach(),
            blocks=tuple(self.block(layer) for layer in network.encoder.layer),
            norm=network.layernorm,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of what it loaded: what matters of it is an error of ours."""
    from transformers import logging as library

    level = library.get_verbosity()
    library.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        library.set_verbosity(level)


def check_loaded(source: str, info: Mapping[str, Any]) -> None:
    """Refuse what transformers would fill with random weights; raises CheckpointError."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(source, got=f"no weights for {', '.join(missing[:3])}", expected="all weights")
    for name, got, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError(f"{source} tensor {name}", got=f"shape {list(got)}", expected=f"shape {list(expected)}")
