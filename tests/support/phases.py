"""Phases of a tokenizer that trains in milliseconds, on three small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from tiny_models import SIZE, tiny_config
from torch import Tensor, nn

from vqrae.config import VQRAEConfig
from vqrae.model import VQRAE
from vqrae.training.config import PhaseConfig, PretrainConfig, Recipe, Stage1Config, Stage2Config, StageConfig
from vqrae.training.data.batches import TrainingImages
from vqrae.training.data.scenes import Scenes
from vqrae.training.data.sources import open_images, textures
from vqrae.training.phase import Phase
from vqrae.training.pretrain import Pretraining
from vqrae.training.processes import Processes
from vqrae.training.stages import Stage1, Stage2

STEPS = 6


def write_photographs(folder: Path) -> Path:
    """Three photographs of smooth noise."""
    rng = np.random.default_rng(0)
    for name in "abc":
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


Kind = TypeVar("Kind", bound=PhaseConfig)


def phase_config(kind: type[Kind], **fields: Any) -> Kind:
    """With the defaults that the phase reads."""
    defaults: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "encoder_learning_rate": 1e-3,
        "end_factor": 0.1,
        "warmup": 2,
        "precision": "fp32",
        "scene_fraction": 0.25,
        "color_jitter": 0.5,
        "discriminator_channels": 32,
    }
    read = {name: value for name, value in defaults.items() if name in kind.model_fields}
    return kind(**{**read, **fields})


def training_images(folder: Path, config: StageConfig, seed: int = 0) -> TrainingImages:
    source = open_images(str(folder))
    return TrainingImages(source, Scenes(photographs=textures(source, 3), size=SIZE), config, SIZE, seed)


def fresh_model(network: str = "siglip", **quantizer: Any) -> VQRAE:
    """As training starts: the weights that the constructors give."""
    torch.manual_seed(0)
    return VQRAE(tiny_config(network, **quantizer))


def stage1(folder: Path, network: str = "siglip", **fields: Any) -> Stage1:
    config = phase_config(Stage1Config, **fields)
    return Stage1(fresh_model(network), config, training_images(folder, config), Processes())


def stage2(folder: Path, network: str = "siglip", **fields: Any) -> Stage2:
    config = phase_config(Stage2Config, **fields)
    return Stage2(fresh_model(network), config, training_images(folder, config), Processes())


def adversarial(folder: Path, **fields: Any) -> Stage2:
    """Stage 2 with everything: perceptual distance, a discriminator from step 2 on, an average of the weights."""
    values = {"perceptual": "teacher", "discriminator_start": 2, "ema_decay": 0.9, **fields}
    return stage2(folder, **values)


def pretraining(folder: Path, **fields: Any) -> Pretraining:
    photographs = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    scenes = Scenes(photographs=photographs, size=SIZE)
    return Pretraining(tiny_config(), phase_config(PretrainConfig, **fields), scenes, seed=0)


def losses(phase: Phase, step: int = 0) -> dict[str, Tensor]:
    """The terms of one step's whole batch."""
    terms: dict[str, Tensor] = phase.objective(*phase.batch(step, range(phase.config.batch_size))).terms
    return terms


def backward(phase: Phase, step: int = 0) -> dict[str, Tensor]:
    terms = losses(phase, step)
    torch.stack(list(terms.values())).sum().backward()
    return terms


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def tiny_recipe(**model: Any) -> Recipe:
    small = {"steps": 3, "batch_size": 2, "warmup": 1}
    config = VQRAEConfig.model_validate({**tiny_config(init="features", codebook_size=16).model_dump(), **model})
    return Recipe(
        model=config,
        pretrain=phase_config(PretrainConfig, **small),
        stage1=phase_config(Stage1Config, **small),
        stage2=phase_config(Stage2Config, **small),
    )
