"""What a training run is made of: a recipe holds one configuration per phase.

Marks as in `vqrae.config`: [P] the paper, [T] TiTok's code base, [I] our inference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from vqrae.config import (
    StrictConfig,
    VQRAEConfig,
    base,
    internvit_300m_448,
    siglip2_so400m_256,
    siglip2_so400m_512,
    tiny,
)
from vqrae.runtimes.errors import UsageError, unknown_name
from vqrae.runtimes.json_text import told

AUTOCAST = {"fp32": False, "bf16": True}
"""Precision of a phase -> whether PyTorch casts to bfloat16 in the networks."""


class LossWeights(StrictConfig):
    """Weights of the terms that are summed into the loss."""

    pixel: float = Field(1.0, ge=0)
    """L2 between pixels in [-1, 1]: four times the same images' in [0, 1], where TiTok weighs it with 1 [I]."""
    quantizer: float = Field(1.0, ge=0)
    """Codebook and commitment loss [T]."""
    perceptual: float = Field(1.1, ge=0)
    """Perceptual distance, where the phase has one [P]."""
    adversarial: float = Field(0.1, ge=0)
    """−mean(logit) of the discriminator on the decoded images; stage 2 only [P]."""
    lecam: float = Field(0.001, ge=0)
    """LeCam regularization of the discriminator [T]."""
    distillation: float = Field(1.0, ge=0)
    """λ_d, on the continuous features; stage 2 only [P]."""
    dense: float = Field(1.0, ge=0)
    """Cross-entropy of the shape that covers each patch; pre-training only [I]."""


class PhaseConfig(StrictConfig):
    """One phase: pre-training, stage 1 or stage 2."""

    steps: int = Field(gt=0)
    """Optimizer steps."""
    batch_size: int = Field(gt=0)
    """Images per step, over all processes."""
    accumulation: int = Field(1, gt=0)
    """Parts that each process computes its share of a step in, one after the other, to need less memory."""
    learning_rate: float = Field(gt=0)
    """Peak rate of everything but the encoder, after warm-up [P]."""
    encoder_learning_rate: float = Field(0.0, ge=0)
    """Peak rate of the encoder; 0 where it is frozen [P]."""
    end_factor: float = Field(gt=0, le=1)
    """Rate at the last step as a fraction of the peak; cosine between [P]."""
    encoder_end_factor: float | None = Field(None, gt=0, le=1)
    """The same for the encoder, if it is another."""
    discriminator_learning_rate: float = Field(4e-5, gt=0)
    """Peak rate of the discriminator [P]."""
    discriminator_end_factor: float = Field(0.25, gt=0, le=1)
    """Its rate at the last step as a fraction of the peak [P]."""
    discriminator_start: int | None = Field(None, ge=0)
    """First step with a discriminator; None for none [P]."""
    discriminator_channels: int = Field(128, gt=0)
    """Width of its first stage [T]."""
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
    perceptual: Literal["none", "teacher", "lpips-convnext"] = "none"
    """`lpips-convnext`: LPIPS + 0.1 × ConvNeXt-S, which needs torchvision and downloads [P]. `teacher`: distance in the
    frozen initial encoder's own features [I]."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay, per step, of the moving average of the weights that the phase results in; 0 for the weights themselves.
    0.999 [T]."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile each block with `torch.compile`."""
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

    def changed(self, settings: Mapping[str, str]) -> Recipe:
        """A copy with other values at dotted keys: `{"stage1.steps": "100", "model.quantizer.beta": "0.5"}`.

        A value is JSON, or a string where it is not.

        Raises:
            UsageError: no such key, with the nearest one; or a value that the field does not take.
        """
        values = self.model_dump(mode="json")
        for key, text in settings.items():
            *path, last = key.split(".")
            inside: Any = values
            for part in path:
                inside = inside.get(part) if isinstance(inside, dict) else None
            if not isinstance(inside, dict) or last not in inside:
                raise unknown_name("setting", key, _dotted(values))
            inside[last] = _value(text)
        try:
            return Recipe.model_validate(values)
        except ValidationError as error:
            subject, got, expected = told("setting", error)
            raise UsageError(subject.replace(" field ", " "), got=got, expected=expected) from error


def _dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in values.items():
        inner = isinstance(value, dict) and name != "network"
        keys += _dotted(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _paper(model: VQRAEConfig, batch_size: int, steps: tuple[int, int], discriminator_start: int) -> Recipe:
    """Two columns of the paper's recipe table; end rates 1e-4 in stage 1 and 1e-5, everywhere, in stage 2 [P]."""
    return Recipe(
        model=model,
        stage1=PhaseConfig(
            steps=steps[0],
            batch_size=batch_size,
            learning_rate=4e-4,
            end_factor=0.25,
            perceptual="lpips-convnext",
            ema_decay=0.999,
        ),
        stage2=PhaseConfig(
            steps=steps[1],
            batch_size=batch_size,
            learning_rate=1e-4,
            end_factor=0.1,
            encoder_learning_rate=1e-5,
            encoder_end_factor=1.0,
            discriminator_start=discriminator_start,
            perceptual="lpips-convnext",
            ema_decay=0.999,
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
        "base": lambda: _paper(base(), 1024, (100_000, 70_000), 50_000),
        "siglip2-so400m-256": lambda: _paper(siglip2_so400m_256(), 1024, (100_000, 70_000), 50_000),
        "siglip2-so400m-512": lambda: _paper(siglip2_so400m_512(), 1024, (100_000, 70_000), 50_000),
        "internvit-300m-448": lambda: _paper(internvit_300m_448(), 768, (45_000, 60_000), 30_000),
    }
    if name not in recipes:
        raise unknown_name("preset", name, recipes)
    return recipes[name]()
