"""The configuration of a VQRAE tokenizer (`vqrae.model.config`), and its presets. Marks as there: [P] is the paper."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from vqrae.model.config import DecoderConfig, EncoderConfig
from vqrae.model.config import VQRAEConfig as VQRAEConfig  # what api.md names is here
from vqrae.model.quantizers.config import SimVQConfig
from vqrae.runtimes.errors import UsageError


def _siglip(image_size: int, patch: int, width: int, depth: int, heads: int, mlp_width: int) -> EncoderConfig:
    network = {
        "image_size": image_size,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp_width,
        "vision_use_head": False,
    }
    return EncoderConfig(family="siglip_vision_model", network=network)


def tiny() -> VQRAEConfig:
    """Three million parameters at 64 px on a 32×32 grid: trains on two cores, and photographs stay recognizable."""
    return VQRAEConfig(
        name="vqrae-tiny",
        image_size=64,
        encoder=_siglip(64, patch=2, width=192, depth=3, heads=3, mlp_width=768),
        quantizer=SimVQConfig(codebook_size=4096, code_width=256, init="features"),
        decoder=DecoderConfig(width=192, depth=3, heads=3, mlp_width=768, patch_size=2),
    )


def base() -> VQRAEConfig:
    """A ViT-B at 256 px with the paper's codebook: the size that latencies are usually quoted at."""
    return VQRAEConfig(
        name="vqrae-base",
        image_size=256,
        encoder=_siglip(256, patch=16, width=768, depth=12, heads=12, mlp_width=3072),
        quantizer=SimVQConfig(),
        decoder=DecoderConfig(width=768, depth=12, heads=12, mlp_width=3072, patch_size=16),
    )


def _so400m(image_size: int) -> VQRAEConfig:
    return VQRAEConfig(
        name=f"vqrae-siglip2-so400m-{image_size}",
        image_size=image_size,
        encoder=_siglip(image_size, patch=16, width=1152, depth=27, heads=16, mlp_width=4304),
        quantizer=SimVQConfig(),
        decoder=DecoderConfig(width=1152, depth=27, heads=16, mlp_width=4304, patch_size=16),
    )


def siglip2_so400m_256() -> VQRAEConfig:
    """The paper's SigLIP2-so400m-patch16-256: a 16×16 grid [P]."""
    return _so400m(256)


def siglip2_so400m_512() -> VQRAEConfig:
    """The paper's SigLIP2-so400m-patch16-512: a 32×32 grid [P]."""
    return _so400m(512)


def internvit_300m_448() -> VQRAEConfig:
    """The paper's InternViT-300M-448, patch 14: a 32×32 grid [P]."""
    network = {
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "attention_bias": True,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
    }
    return VQRAEConfig(
        name="vqrae-internvit-300m-448",
        image_size=448,
        encoder=EncoderConfig(
            family="internvl_vision",
            network=network,
            image_mean=(0.485, 0.456, 0.406),
            image_std=(0.229, 0.224, 0.225),
        ),
        quantizer=SimVQConfig(),
        decoder=DecoderConfig(width=1024, depth=24, heads=16, mlp_width=4096, patch_size=14),
    )


PRESETS: dict[str, Callable[[], VQRAEConfig]] = {
    "tiny": tiny,
    "base": base,
    "siglip2-so400m-256": siglip2_so400m_256,
    "siglip2-so400m-512": siglip2_so400m_512,
    "internvit-300m-448": internvit_300m_448,
}


def preset(name: str) -> VQRAEConfig:
    """The configuration of a preset by name.

    Raises:
        UsageError: the name is not a preset; the nearest one is suggested.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        remedy = f"did you mean {near[0]}?" if near else None
        raise UsageError("preset", got=repr(name), expected=f"one of {', '.join(PRESETS)}", remedy=remedy)
    return PRESETS[name]()
