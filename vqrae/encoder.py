"""The pretrained vision encoder: continuous features for understanding, and the quantizer's input (paper §3.1).

The features are the network's last hidden state after its own final norm, patch tokens only: the tensor that a
multimodal language model consumes. The paper does not name the layer; this is our reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from vqrae.config import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, EncoderConfig, EncoderFamily
from vqrae.runtimes.errors import CheckpointError

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

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"


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
        self.network: Any = network or network_class(network_config(**config.network))
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
        try:
            _refuse_near_miss(source)
            # Never the repository's own code; without the word, transformers asks the terminal whether to run it.
            kind = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
            family = COMPOSITE.get(kind, kind)
            if family not in NETWORKS:
                raise CheckpointError(source, got=f"a {kind} model", expected=f"one of {', '.join(NETWORKS)}")
            network = _load_network(source, kind, family)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            got = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(source, got=got, expected="a Hugging Face checkpoint") from error
        mean, std = _normalization(source, family)
        try:
            config = EncoderConfig(family=family, network=network.config.to_diff_dict(), image_mean=mean, image_std=std)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(f"{source} field {field}", got=first["msg"], expected="three numbers") from error
        return cls(config, network.float())


def _refuse_near_miss(source: str) -> None:
    """Say what to use instead, before transformers is asked: some of these it would load, others it does not know."""
    path = cached_file(source, CONFIG_FILE, _raise_exceptions_for_missing_entries=False)
    kind = _read_object(Path(path)).get("model_type") if path else None
    if kind in NEAR_MISSES:
        expected = f"one of {', '.join(NETWORKS)}"
        raise CheckpointError(source, got=f"a {kind} model", expected=expected, remedy=NEAR_MISSES[kind])


def _load_network(source: str, kind: str, family: EncoderFamily) -> Any:
    """The vision network alone.

    Raises:
        CheckpointError: the checkpoint lacks some of its weights, or has them in other shapes.
    """
    strict = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported in `info`, and refused below
    if kind == "internvl":
        model, info = transformers.AutoModel.from_pretrained(source, **strict)
        _check_loaded(source, info, part="vision_tower")
        return model.vision_tower
    network_config, network_class = NETWORKS[family]
    config = network_config.from_pretrained(source)
    if family == "siglip_vision_model":
        config.vision_use_head = False  # the pooling head would get no gradient
    network, info = network_class.from_pretrained(source, config=config, **strict)
    _check_loaded(source, info)
    return network


def _check_loaded(source: str, info: dict[str, Any], part: str = "") -> None:
    """Refuse what transformers would fill with random weights, in the part of the model that we take."""
    missing = sorted(name for name in info["missing_keys"] if part in name)
    if missing:
        raise CheckpointError(source, got=f"no weights for {', '.join(missing[:3])}", expected="all weights")
    for name, got, expected in sorted(info["mismatched_keys"]):
        if part in name:
            raise CheckpointError(
                f"{source} tensor {name}", got=f"shape {list(got)}", expected=f"shape {list(expected)}"
            )


def _normalization(source: str, family: EncoderFamily) -> tuple[Any, Any]:
    """Mean and standard deviation from `preprocessor_config.json`, or the family's own where there is none."""
    path = cached_file(source, PREPROCESSOR_FILE, _raise_exceptions_for_missing_entries=False)
    if path:
        values = _read_object(Path(path))
        if "image_mean" in values or "image_std" in values:
            return values.get("image_mean"), values.get("image_std")
    return (SIGLIP_MEAN, SIGLIP_MEAN) if family == "siglip_vision_model" else (IMAGENET_MEAN, IMAGENET_STD)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(str(path), got=str(error), expected=f"a readable {path.name}") from error
    if not isinstance(values, dict):
        raise CheckpointError(str(path), got=f"a JSON {type(values).__name__}", expected="a JSON object")
    return values
