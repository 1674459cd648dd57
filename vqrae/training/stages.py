"""The two stages of the paper (§3.4).

Stage 1: the encoder is frozen; projections, codebook and decoder learn. Stage 2: everything learns, and the continuous
features are held to the frozen initial encoder's by distillation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.cluster import KMeans
from torch import Tensor

from vqrae.layers import pixels_from_uint8
from vqrae.model import VQRAE
from vqrae.training.config import PhaseConfig
from vqrae.training.data.crops import CroppedPhotographs
from vqrae.training.data.scenes import Scenes
from vqrae.training.loop import Phase, trainable
from vqrae.training.losses.terms import distillation_loss, pixel_loss

INIT_TOKENS_PER_CODE = 16
"""Features that are gathered for each code that is placed among them."""
INIT_ITERATIONS = 10
"""Rounds of k-means, from codes drawn among the features."""


class TrainingImages:
    """The batches of stages 1 and 2: crops of the photographs, mixed with scenes over them."""

    def __init__(
        self, crops: CroppedPhotographs, photographs: Sequence[Image.Image], config: PhaseConfig, seed: int
    ) -> None:
        self.crops = crops
        self.scenes = Scenes(photographs=photographs, size=crops.size)
        self.scene_count = round(config.scene_fraction * config.batch_size)
        self.crop_count = config.batch_size - self.scene_count
        self.seed = seed

    def pixels(self, step: int) -> Tensor:
        """Pixels float32 (B, 3, S, S) in [-1, 1] of one step."""
        images = self.crops.batch(self.crop_count, [self.seed, step])
        if self.scene_count:
            images = np.concatenate([images, self.scenes.batch(self.scene_count, [self.seed, step]).images])
        return pixels_from_uint8(torch.from_numpy(images))


@torch.inference_mode()
def place_codes(model: VQRAE, images: TrainingImages, first_step: int, seed: int) -> None:
    """Make the codes the centroids of the projected features of some batches, and the quantizer's map the identity.

    SimVQ moves all codes together, so how they lie relative to each other is decided here.

    Args:
        model: changed in place.
        images: where the batches come from.
        first_step: names the first batch; past a stage's last step lie images that it does not train on.
        seed: of the features that k-means starts from.
    """
    size = model.config.quantizer.codebook_size
    projected: list[Tensor] = []
    while sum(len(chunk) for chunk in projected) < INIT_TOKENS_PER_CODE * size:
        pixels = images.pixels(first_step + len(projected))
        projected.append(model.in_projection(model.encoder(pixels)).flatten(0, 1))
    clusters = KMeans(size, init="random", n_init=1, max_iter=INIT_ITERATIONS, random_state=seed)
    clusters.fit(torch.cat(projected).numpy())
    model.quantizer.set_codes(torch.from_numpy(clusters.cluster_centers_))


class Stage1(Phase):
    """Pixel and quantizer loss; no gradient reaches the encoder."""

    module: VQRAE

    def __init__(self, model: VQRAE, config: PhaseConfig, images: TrainingImages) -> None:
        self.config = config
        self.module = model
        self.images = images
        model.encoder.requires_grad_(False)

    def init_codebook(self, seed: int) -> None:
        """Put the codes where the features are, if the configuration asks for it. Call once, before the first step."""
        if self.module.config.quantizer.init == "features":
            place_codes(self.module, self.images, self.config.steps, seed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything but the encoder."""
        return [{"params": trainable(self.module), "lr": self.config.learning_rate}]

    def losses(self, step: int) -> dict[str, Tensor]:
        """Pixel and quantizer terms."""
        pixels = self.images.pixels(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            decoded, _, _, quantizer_loss = self.module(pixels)
        weights = self.config.weights
        return {"pixel": weights.pixel * pixel_loss(decoded, pixels), "quantizer": weights.quantizer * quantizer_loss}


class Stage2(Phase):
    """Pixel, quantizer and distillation loss; the encoder learns at its own, lower rate."""

    module: VQRAE

    def __init__(self, model: VQRAE, config: PhaseConfig, images: TrainingImages) -> None:
        self.config = config
        self.module = model
        self.images = images
        self.teacher = copy.deepcopy(model.encoder).requires_grad_(False)
        model.encoder.unfreeze()

    def refit_codebook(self, seed: int) -> None:
        """Put the codes where the features are by now, if the phase asks for it. Call once, after the last step."""
        if self.config.refit_codebook:
            place_codes(self.module, self.images, self.config.steps, seed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder at its own rate, and the rest."""
        model = self.module
        rest = (model.in_projection, model.quantizer, model.out_projection, model.decoder)
        return [
            {"params": trainable(model.encoder), "lr": self.config.encoder_learning_rate},
            {"params": [p for part in rest for p in trainable(part)], "lr": self.config.learning_rate},
        ]

    def losses(self, step: int) -> dict[str, Tensor]:
        """Pixel, quantizer and distillation terms."""
        pixels = self.images.pixels(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            decoded, features, _, quantizer_loss = self.module(pixels)
            with torch.no_grad():
                target = self.teacher(pixels)
        weights = self.config.weights
        return {
            "pixel": weights.pixel * pixel_loss(decoded, pixels),
            "quantizer": weights.quantizer * quantizer_loss,
            "distillation": weights.distillation * distillation_loss(features, target),
        }
