"""Models small enough to build in milliseconds, one per encoder family and variant."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from vqrae.calibration.layers import Role
from vqrae.checkpoint import Checkpoint
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.model import VQRAE
from vqrae.model.config import DecoderConfig, EncoderConfig, VQRAEConfig
from vqrae.model.quantizers.config import SimVQConfig
from vqrae.runtimes.manifest import CheckpointIdentity

SIZE, PATCH, WIDTH = 32, 8, 32
SHARED = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
SQUARE = {"image_size": SIZE, "patch_size": PATCH}
PAIRS = {"image_size": [SIZE, SIZE], "patch_size": [PATCH, PATCH]}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip": ("siglip_vision_model", {**SHARED, **SQUARE, "intermediate_size": 64, "vision_use_head": False}),
    "dinov2": ("dinov2", {**SHARED, **SQUARE, "mlp_ratio": 2, "layerscale_value": 0.7}),
    "dinov2-swiglu": ("dinov2", {**SHARED, **SQUARE, "mlp_ratio": 2, "use_swiglu_ffn": True}),
    "internvit": (
        "internvl_vision",
        {**SHARED, **PAIRS, "intermediate_size": 64, "use_absolute_position_embeddings": True, "attention_bias": True},
    ),
    "internvit-qk-norm": (
        "internvl_vision",
        {**SHARED, **PAIRS, "intermediate_size": 64, "use_qk_norm": True, "norm_type": "rms_norm"},
    ),
}


def tiny_config(network: str = "siglip", *, depth: int = 2, **quantizer: Any) -> VQRAEConfig:
    """A 4×4 grid of 64 codes at 32 px; `depth` blocks in the encoder and as many in the decoder."""
    family, values = NETWORKS[network]
    normalization = (
        {} if family == "siglip_vision_model" else {"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.4)}
    )
    return VQRAEConfig(
        name=f"test-{network}",
        image_size=SIZE,
        encoder=EncoderConfig(family=family, network={**values, "num_hidden_layers": depth}, **normalization),
        quantizer=SimVQConfig(**{"codebook_size": 64, "code_width": 48, **quantizer}),
        decoder=DecoderConfig(width=WIDTH, depth=depth, heads=4, mlp_width=64, patch_size=PATCH),
    )


def tiny_model(network: str = "siglip", seed: int = 0, *, depth: int = 2) -> VQRAE:
    """Every parameter random, biases, norms and layer scales too, so that a folding that forgets one is seen."""
    torch.manual_seed(seed)
    model = VQRAE(tiny_config(network, depth=depth)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def deployable(model: VQRAE) -> VqraeTokenizer:
    """A model that lies in no checkpoint, to be exported."""
    made = {"source": "memory", "weights_sha256": "0" * 64, "config_sha256": "0" * 64, "random_weights": True}
    return VqraeTokenizer(Checkpoint(model=model, identity=CheckpointIdentity(name=model.config.name, **made)))


@cache
def roles() -> dict[str, Role]:
    """What the modules of both graphs of the tiny SigLIP are."""
    return {name: role for plan in deployable(tiny_model()).graphs() for name, role in plan.roles.items()}


def random_images(count: int = 3, seed: int = 0) -> torch.Tensor:
    """uint8 (count, 32, 32, 3)."""
    return torch.randint(
        0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
