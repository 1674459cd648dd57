"""What a training run is made of: a recipe holds one configuration per phase.

Marks as in `vqrae.config`: [P] the paper, [T] TiTok's code base, [I] our inference.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Literal

from pydantic import Field

from vqrae.config import (
    StrictConfig,
    VQRAEConfig,
    base,
    internvit_300m_448,
    siglip2_so400m_256,
    siglip2_so400m_512,
    tiny,
)
from vqrae.runtimes.errors import UsageError


class LossWeights(StrictConfig):
    """Weights of the terms that are summed into the loss. Perceptual and adversarial terms take their places here."""

    pixel: float = Field(1.0, ge=0)
    """L2 between pixels in [-1, 1] [T]."""
    quantizer: float = Field(1.0, ge=0)
    """Codebook and commitment loss [T]."""
    distillation: float = Field(1.0, ge=0)
    """λ_d, on the continuous features; stage 2 only [P]."""
    dense: float = Field(1.0, ge=0)
    """Cross-entropy of the shape that covers each patch; pre-training only [I]."""


class PhaseConfig(StrictConfig):
    """One phase: pre-training, stage 1 or stage 2."""

    steps: int = Field(gt=0)
    """Optimizer steps."""
    batch_size: int = Field(gt=0)
    """Images per step."""
    learning_rate: float = Field(gt=0)
    """Peak rate of everything but the encoder, after warm-up [P]."""
    encoder_learning_rate: float = Field(0.0, ge=0)
    """Peak rate of the encoder; 0 where it is frozen [P]."""
    end_factor: float = Field(gt=0, le=1)
    """Rate at the last step as a fraction of the peak; cosine between [P]."""
    warmup: int = Field(2000, ge=0)
    """Steps of linear warm-up [P]."""
    weight_decay: float = Field(1e-4, ge=0)
    """AdamW's decoupled decay [P]."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moments [P]."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient over all parameters [P]."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Autocast dtype of the networks; quantizer and losses stay in float32 [P]."""
    weights: LossWeights = LossWeights()
    """Weights of the loss terms."""
    scene_fraction: float = Field(0.0, ge=0, le=1)
    """Share of each batch drawn from the procedural scenes instead of the photographs [I]."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of random hue, saturation and brightness; stands in for variety where photographs are few [I]."""
    refit_codebook: bool = False
    """Place the codes by k-means once more after stage 2's last step. Features drift while they learn, and at small
    scale SimVQ's one map does not follow well enough. The decoder stays as it is: centroids lie nearer to the features
    that it is to decode than the codes did that it learned with [I]."""
    save_every: int = Field(500, gt=0)
    """Steps between two saved states, from which a stopped run resumes."""


class Recipe(StrictConfig):
    """A tokenizer and the phases that train it."""

    model: VQRAEConfig
    pretrain: PhaseConfig | None = None
    """Encoder pre-training; None where the encoder comes pretrained [P]."""
    stage1: PhaseConfig
    stage2: PhaseConfig


def _paper(model: VQRAEConfig, batch_size: int, stage1_steps: int, stage2_steps: int) -> Recipe:
    """The columns of the paper's recipe table; end rates 1e-4 in stage 1 and 1e-5 in stage 2 [P]."""
    return Recipe(
        model=model,
        stage1=PhaseConfig(steps=stage1_steps, batch_size=batch_size, learning_rate=4e-4, end_factor=0.25),
        stage2=PhaseConfig(
            steps=stage2_steps,
            batch_size=batch_size,
            learning_rate=1e-4,
            encoder_learning_rate=1e-5,
            end_factor=0.1,
        ),
    )


def _tiny() -> Recipe:
    """About forty minutes on two cores [I]."""
    return Recipe(
        model=tiny(),
        pretrain=PhaseConfig(
            steps=1500,
            batch_size=4,
            learning_rate=1e-3,
            encoder_learning_rate=1e-3,
            end_factor=0.02,
            warmup=100,
            weights=LossWeights(pixel=10),
        ),
        stage1=PhaseConfig(
            steps=1200,
            batch_size=4,
            learning_rate=1e-3,
            end_factor=0.1,
            warmup=100,
            scene_fraction=0.25,
            color_jitter=0.7,
            save_every=100,
        ),
        stage2=PhaseConfig(
            steps=1200,
            batch_size=4,
            learning_rate=6e-4,
            encoder_learning_rate=2e-4,
            end_factor=0.02,
            warmup=50,
            scene_fraction=0.25,
            color_jitter=0.7,
            refit_codebook=True,
            save_every=100,
        ),
    )


def recipe(name: str) -> Recipe:
    """The recipe of a preset by name.

    Raises:
        UsageError: the name is not a preset; the nearest one is suggested.
    """
    recipes: dict[str, Callable[[], Recipe]] = {
        "tiny": _tiny,
        "base": lambda: _paper(base(), 1024, 100_000, 70_000),
        "siglip2-so400m-256": lambda: _paper(siglip2_so400m_256(), 1024, 100_000, 70_000),
        "siglip2-so400m-512": lambda: _paper(siglip2_so400m_512(), 1024, 100_000, 70_000),
        "internvit-300m-448": lambda: _paper(internvit_300m_448(), 768, 45_000, 60_000),
    }
    if name not in recipes:
        near = get_close_matches(name, recipes, n=1)
        remedy = f"did you mean {near[0]}?" if near else None
        raise UsageError("preset", got=repr(name), expected=f"one of {', '.join(recipes)}", remedy=remedy)
    return recipes[name]()
