"""What a training run is made of: a recipe holds one configuration per phase, of what that phase reads.

Marks as in `vqrae.config`: [P] the paper, [T] TiTok's code base, [I] our inference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from vqrae.config import (
    VQRAEConfig,
    base,
    internvit_300m_448,
    siglip2_so400m_256,
    siglip2_so400m_512,
    tiny,
)
from vqrae.runtimes.errors import UsageError, unknown_name
from vqrae.runtimes.json_text import Record, told

AUTOCAST = {"fp32": False, "bf16": True}
"""Precision of a phase -> whether PyTorch casts to bfloat16 in the networks."""


class PhasePart(Record):
    """What a phase reads, and nothing else: what only others read is refused, and they are named.

    Raises:
        UsageError: such a field.
    """

    inside: ClassVar[tuple[str, ...]] = ()
    """Where it stands within a phase."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unread(cls, values: Any) -> Any:
        for name in sorted(values.keys() - cls.model_fields.keys()) if isinstance(values, dict) else ():
            if readers := _readers((*cls.inside, name)):
                raise _unread(f"{cls.__name__} field {name}", values[name], readers)
        return values


class LossWeights(PhasePart):
    """Weights of the terms that are summed into the loss."""

    inside = ("weights",)

    pixel: float = Field(1.0, ge=0)
    """L2 between pixels in [-1, 1]: four times the same images' in [0, 1], where TiTok weighs it with 1 [I]."""


class PretrainWeights(LossWeights):
    """Of pre-training."""

    dense: float = Field(1.0, ge=0)
    """Cross-entropy of the shape that covers each patch [I]."""


class StageWeights(LossWeights):
    """Of both stages."""

    quantizer: float = Field(1.0, ge=0)
    """Codebook and commitment loss [T]."""
    perceptual: float = Field(1.1, ge=0)
    """Perceptual distance, where the stage has one [P]."""
    adversarial: float = Field(0.1, ge=0)
    """−mean(logit) of the discriminator on the decoded images, where the stage has one [P]."""
    lecam: float = Field(0.001, ge=0)
    """LeCam regularization of the discriminator [T]."""


class Stage1Weights(StageWeights):
    """Of stage 1."""


class Stage2Weights(StageWeights):
    """Of stage 2."""

    distillation: float = Field(1.0, ge=0)
    """λ_d, on the continuous features [P]."""


class PhaseConfig(PhasePart):
    """What every phase reads."""

    steps: int = Field(gt=0)
    """Optimizer steps."""
    batch_size: int = Field(gt=0)
    """Images per step, over all processes."""
    accumulation: int = Field(1, gt=0)
    """Parts that each process computes its share of a step in, one after the other, to need less memory."""
    learning_rate: float = Field(gt=0)
    """Peak rate of everything but the encoder, after warm-up [P]."""
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
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay, per step, of the moving average of the weights that the phase results in; 0 for the weights themselves.
    0.999 [T]."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile each block with `torch.compile`."""
    save_every: int = Field(500, gt=0)
    """Steps between two saved states, from which a stopped run resumes."""


class EncoderRates(PhasePart):
    """What a phase reads that trains the encoder."""

    encoder_learning_rate: float = Field(0.0, ge=0)
    """Peak rate of the encoder [P]."""
    encoder_end_factor: float | None = Field(None, gt=0, le=1)
    """`end_factor` for the encoder, if it is another."""


class PretrainConfig(EncoderRates, PhaseConfig):
    """Pre-training of the encoder."""

    weights: PretrainWeights = PretrainWeights()
    """Weights of the loss terms."""


class StageConfig(PhaseConfig):
    """What both stages read."""

    discriminator_learning_rate: float = Field(4e-5, gt=0)
    """Peak rate of the discriminator [P]."""
    discriminator_end_factor: float = Field(0.25, gt=0, le=1)
    """Its rate at the last step as a fraction of the peak [P]."""
    discriminator_start: int | None = Field(None, ge=0)
    """First step with a discriminator; None for none [P]."""
    discriminator_channels: int = Field(128, gt=0)
    """Width of its first stage [T]."""
    perceptual: Literal["none", "teacher", "lpips-convnext"] = "none"
    """`lpips-convnext`: LPIPS + 0.1 × ConvNeXt-S, which needs torchvision and downloads [P]. `teacher`: distance in the
    frozen initial encoder's own features [I]."""
    weights: StageWeights
    """Weights of the loss terms."""
    scene_fraction: float = Field(0.0, ge=0, le=1)
    """Share of each batch drawn from the procedural scenes instead of the photographs [I]."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of random hue, saturation and brightness; stands in for variety where photographs are few [I]."""


class Stage1Config(StageConfig):
    """Stage 1."""

    weights: Stage1Weights = Stage1Weights()


class Stage2Config(EncoderRates, StageConfig):
    """Stage 2."""

    weights: Stage2Weights = Stage2Weights()
    refit_codebook: bool = False
    """Place the codes by k-means once more after stage 2's last step. Features drift while they learn, and at small
    scale SimVQ's one map does not follow well enough. The decoder stays as it is: centroids lie nearer to the features
    that it is to decode than the codes did that it learned with [I]."""


PhaseName = Literal["pretrain", "stage1", "stage2"]
PHASES: dict[PhaseName, type[PhaseConfig]] = {
    "pretrain": PretrainConfig,
    "stage1": Stage1Config,
    "stage2": Stage2Config,
}


def as_read(kind: type[PhasePart], saved: Mapping[str, Any]) -> dict[str, Any]:
    """What was saved of a phase, without what it does not read: earlier versions wrote that down too."""
    kept = {}
    for name, value in saved.items():
        if name not in kind.model_fields and _readers((*kind.inside, name)):
            continue
        part = _part(kind, name)
        kept[name] = as_read(part, value) if part is not None and isinstance(value, dict) else value
    return kept


def _readers(path: Sequence[str]) -> list[PhaseName]:
    """The phases that read a field, such as ("weights", "dense")."""
    return [phase for phase, kind in PHASES.items() if _reads(kind, path)]


def _reads(kind: type[PhasePart], path: Sequence[str]) -> bool:
    if len(path) == 1:
        return path[0] in kind.model_fields
    part = _part(kind, path[0])
    return part is not None and _reads(part, path[1:])


def _part(kind: type[PhasePart], name: str) -> type[PhasePart] | None:
    """The type of a field that has fields of its own."""
    annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, PhasePart) else None


def _unread(subject: str, got: object, readers: Sequence[PhaseName]) -> UsageError:
    remedy = f"{' and '.join(readers)} read{'s' if len(readers) == 1 else ''} it"
    return UsageError(subject, got=str(got), expected="one that this phase reads", remedy=remedy)


class Recipe(Record):
    """A tokenizer and the phases that train it."""

    model: VQRAEConfig
    pretrain: PretrainConfig | None = None
    """Encoder pre-training; None where the encoder comes pretrained [P]."""
    stage1: Stage1Config
    stage2: Stage2Config

    def changed(self, settings: Mapping[str, str]) -> Recipe:
        """A copy with other values at dotted keys, see `changed`."""
        return changed(self, settings)


Settings = TypeVar("Settings", bound=Record)


def changed(recipe: Settings, settings: Mapping[str, str]) -> Settings:
    """A copy with other values at dotted keys: `{"stage1.steps": "100", "model.quantizer.beta": "0.5"}`.

    A value is JSON, or a string where it is not.

    Raises:
        UsageError: no such key, with the nearest one, or with the phases that read it if this one does not; or a value
            that the field does not take.
    """
    values = recipe.model_dump(mode="json")
    for key, text in settings.items():
        *path, last = key.split(".")
        inside: Any = values
        for part in path:
            inside = inside.get(part) if isinstance(inside, dict) else None
        if not isinstance(inside, dict) or last not in inside:
            of_phase = bool(path) and isinstance(getattr(recipe, path[0], None), PhaseConfig)
            if of_phase and (readers := _readers((*path[1:], last))):
                raise _unread(f"setting {key}", text, readers)
            raise unknown_name("setting", key, _dotted(values))
        inside[last] = _value(text)
    try:
        return type(recipe).model_validate(values)
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
        stage1=Stage1Config(
            steps=steps[0],
            batch_size=batch_size,
            learning_rate=4e-4,
            end_factor=0.25,
            perceptual="lpips-convnext",
            ema_decay=0.999,
        ),
        stage2=Stage2Config(
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
        pretrain=PretrainConfig(
            steps=1500,
            batch_size=4,
            learning_rate=1e-3,
            encoder_learning_rate=1e-3,
            end_factor=0.02,
            warmup=100,
            weights=PretrainWeights(pixel=10),
        ),
        stage1=Stage1Config(
            steps=1200,
            batch_size=4,
            learning_rate=1e-3,
            end_factor=0.1,
            warmup=100,
            scene_fraction=0.25,
            color_jitter=0.7,
            save_every=100,
        ),
        stage2=Stage2Config(
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
