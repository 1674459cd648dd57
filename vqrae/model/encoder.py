"""The pretrained vision encoder: continuous features for understanding, and the quantizer's input (paper §3.1).

The features are the network's last hidden state after its own final norm, patch tokens only: the tensor that a
multimodal language model consumes. The paper does not name the layer; this is our reading.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from vqrae.config import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, EncoderConfig
from vqrae.hub import checkpoint_file, required_file
from vqrae.networks import EncoderFamily, checked_network, known_fields
from vqrae.processor import PREPROCESSOR_FILE, PROCESSOR_FILE, Triple, normalization
from vqrae.runtimes.errors import CheckpointError
from vqrae.runtimes.json_text import read_object
from vqrae.tensor_file import check_finite, check_held

PREFIX_TOKENS: dict[EncoderFamily, int] = {"siglip_vision_model": 0, "dinov2": 1, "internvl_vision": 1}
"""Class tokens in front of the patch tokens, which the features leave out."""

NETWORKS: dict[EncoderFamily, tuple[type[Any], type[Any]]] = {
    "siglip_vision_model": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
    "internvl_vision": (transformers.InternVLVisionConfig, transformers.InternVLVisionModel),
}

COMPOSITE: dict[str, EncoderFamily] = {"siglip": "siglip_vision_model", "internvl": "internvl_vision"}
"""Checkpoints that hold more than a vision network -> the family of the part that we take."""

NEAR_MISSES: dict[str, str] = {
    "siglip2": "use one of a fixed resolution, not NaFlex, such as google/siglip2-so400m-patch16-256",
    "siglip2_vision_model": "use one of a fixed resolution, not NaFlex, such as google/siglip2-so400m-patch16-256",
    "intern_vit_6b": "use an InternVL in transformers' own format, which holds one, such as OpenGVLab/InternVL3-1B-hf",
    "internvl_chat": "use an InternVL in transformers' own format, such as OpenGVLab/InternVL3-1B-hf",
    "dinov2_with_registers": "use one without registers, such as facebook/dinov2-base",
}
"""`model_type` of checkpoints that are easily taken for one that loads -> what to use instead.

A SigLIP2 of a fixed resolution is a `siglip` to transformers. The original InternViT (`intern_vit_6b` at every size)
and InternVL (`internvl_chat`) run code of their own repositories.
"""

CONFIG_FILE = "config.json"


class Encoder(nn.Module):
    """A vision network of transformers behind one signature."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: EncoderConfig, network: nn.Module | None = None) -> None:
        """Build with random weights, or around a network that was loaded already."""
        super().__init__()
        self.config = config
        self.prefix_tokens = PREFIX_TOKENS[config.family]
        network_config, network_class = NETWORKS[config.family]
        self.network: Any = network or network_class(network_config(**checked_network(config.family, config.network)))
        self.unfreeze()
        self.register_buffer("image_mean", torch.tensor(config.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.image_std).view(3, 1, 1), persistent=False)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> features (B, h·w, C).

        For another size than the network's own, its position embeddings are interpolated, as its library does it.
        """
        features: Tensor = self._run(pixels_B3HW).last_hidden_state
        return features[:, self.prefix_tokens :]

    def hidden_states(self, pixels_B3HW: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """What some blocks put out, and after it the features.

        Args:
            pixels_B3HW: as for `forward`.
            depths: numbers of blocks, from 1 for the first; a block's output is taken as it leaves the block, without a
                norm, patch tokens only.

        Returns:
            One tensor (B, h·w, C) for each of `depths`, in that order, and last what `forward` returns.
        """
        out = self._run(pixels_B3HW, output_hidden_states=list(depths))
        states = [*(out.hidden_states[depth] for depth in depths), out.last_hidden_state]
        return [state[:, self.prefix_tokens :] for state in states]

    def _run(self, pixels_B3HW: Tensor, **options: Any) -> Any:
        """The network's own output of pixels in [-1, 1]."""
        normalized = ((pixels_B3HW + 1) / 2 - self.image_mean) / self.image_std
        if self.config.family == "siglip_vision_model":  # the others look at the size on their own
            side = self.network.config.image_size
            options["interpolate_pos_encoding"] = pixels_B3HW.shape[-2:] != (side, side)
        return self.network(normalized, **options)

    def unfreeze(self) -> None:
        """Let every weight learn but the mask token: only masked pre-training uses it, so no gradient reaches it."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.endswith("mask_token"))

    @classmethod
    def from_pretrained(cls, source: str) -> Encoder:
        """Load a Hugging Face checkpoint: a hub name or a local folder; SigLIP/SigLIP2, DINOv2, InternViT or InternVL.

        Raises:
            CheckpointError: the checkpoint is of another kind, cannot be read, or lacks weights of the vision network.
        """
        with _foreign_errors(source):
            family, values, inside = _described(source)
            try:
                network = checked_network(family, known_fields(family, values))
            except ValueError as error:
                raise CheckpointError(f"{source} {CONFIG_FILE}", got=str(error), expected=f"a {family}") from error
            if family == "siglip_vision_model":
                network["vision_use_head"] = False  # the pooling head would get no gradient
            mean, std = _normalization(source, family)
            config = EncoderConfig(family=family, network=network, image_mean=mean, image_std=std)
            with torch.device("meta"):
                check_held(source, sum(parameter.numel() for parameter in cls(config).parameters()))
            loaded = _load_network(source, config, inside)
        return cls(config, loaded.float())


@contextmanager
def _foreign_errors(source: str) -> Iterator[None]:
    """What transformers raises over a checkpoint, as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        got = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(source, got=got, expected="a Hugging Face checkpoint") from error


def _described(source: str) -> tuple[EncoderFamily, dict[str, Any], str]:
    """The family of a checkpoint's vision network, its own configuration, and where in the weights it is.

    Read as a file of JSON, so that nothing that a configuration may ask of transformers is done: its own code, another
    kernel.
    """
    values = read_object(required_file(source, CONFIG_FILE), CheckpointError, f"a readable {CONFIG_FILE}")
    kind = values.get("model_type")
    expected = f"one of {', '.join(NETWORKS)}"
    if not isinstance(kind, str):
        raise CheckpointError(source, got="no model_type", expected=expected)
    if kind in NEAR_MISSES:
        raise CheckpointError(source, got=f"a {kind} model", expected=expected, remedy=NEAR_MISSES[kind])
    family = COMPOSITE.get(kind, kind)
    if family not in NETWORKS:
        raise CheckpointError(source, got=f"a {kind:.80} model", expected=expected)
    if "quantization_config" in values:
        raise CheckpointError(source, got="quantized weights", expected="weights in floating point")
    if kind in COMPOSITE:
        values = values.get("vision_config", {})
        if not isinstance(values, dict):
            raise CheckpointError(f"{source} field vision_config", got=type(values).__name__, expected="a JSON object")
    return family, values, "vision_tower" if kind == "internvl" else ""


def _load_network(source: str, config: EncoderConfig, inside: str) -> Any:
    """The vision network alone; `inside` names it within a larger model.

    Raises:
        CheckpointError: the checkpoint lacks some of its weights, or has them in other shapes, or not finite.
    """
    network_config, network_class = NETWORKS[config.family]
    with _quiet():
        network, info = network_class.from_pretrained(
            source,
            config=network_config(**config.network),
            key_mapping={rf"^(?:model\.)?{inside}\.": ""} if inside else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported in `info`, and refused below
        )
    _check_loaded(source, info)
    for name, tensor in network.state_dict().items():
        check_finite(f"{source} tensor {name}", tensor)
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of what it loaded: what matters of it is an error of ours."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)


def _check_loaded(source: str, info: dict[str, Any]) -> None:
    """Refuse what transformers would fill with random weights."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(source, got=f"no weights for {', '.join(missing[:3])}", expected="all weights")
    for name, got, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError(f"{source} tensor {name}", got=f"shape {list(got)}", expected=f"shape {list(expected)}")


def _normalization(source: str, family: EncoderFamily) -> tuple[Triple, Triple]:
    """Mean and standard deviation of the checkpoint's processor, or the family's own where there is none."""
    processor, preprocessor = (checkpoint_file(source, name) for name in (PROCESSOR_FILE, PREPROCESSOR_FILE))
    siglip = family == "siglip_vision_model"
    return normalization(
        processor, preprocessor, (SIGLIP_MEAN, SIGLIP_MEAN) if siglip else (IMAGENET_MEAN, IMAGENET_STD)
    )
