"""The two stages of the paper (§3.4).

Stage 1: the encoder is frozen; projections, codebook and decoder learn. Stage 2: everything learns, the continuous
features are held to the frozen initial encoder's by distillation, and a discriminator joins late.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.training.config import AUTOCAST, Stage1Config, Stage2Config, StageConfig
from vqrae.training.data.batches import TrainingImages
from vqrae.training.losses.adversarial import Adversary, PatchDiscriminator
from vqrae.training.losses.lpips_convnext import LpipsConvNext
from vqrae.training.losses.perceptual import TeacherPerceptual
from vqrae.training.losses.terms import distillation_loss, pixel_loss
from vqrae.training.phase import Outcome, Phase, trainable
from vqrae.training.processes import Processes

INIT_TOKENS_PER_CODE = 16
"""Features that are gathered for each code that is placed among them."""
INIT_ITERATIONS = 10
"""Rounds of k-means, from codes drawn among the features."""


class TokenizerObjective(nn.Module):
    """Pixel, perceptual and quantizer terms; with distillation, the distance of the features from a teacher's."""

    def __init__(self, model: VQRAE, teacher: Encoder, config: StageConfig, distillation: float | None = None) -> None:
        """`distillation` is that term's weight; None is without it."""
        super().__init__()
        self.model = model
        self.teacher = teacher
        self.config = config
        self.distillation = distillation
        self.perceptual = PERCEPTUAL[config.perceptual](teacher)

    def forward(self, pixels: Tensor) -> Outcome:
        """Pixels (B, 3, H, W) in [-1, 1]; networks run in the phase's precision, quantizer and terms in float32."""
        weights = self.config.weights
        terms: dict[str, Tensor] = {}
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=AUTOCAST[self.config.precision]):
            decoded, features, _, quantizer_loss = self.model(pixels)
            if self.distillation is not None:
                with torch.no_grad():
                    target = self.teacher(pixels)
            if self.perceptual is not None:
                terms["perceptual"] = weights.perceptual * self.perceptual(decoded, pixels)
        terms["pixel"] = weights.pixel * pixel_loss(decoded, pixels)
        terms["quantizer"] = weights.quantizer * quantizer_loss
        if self.distillation is not None:
            terms["distillation"] = self.distillation * distillation_loss(features, target)
        return Outcome(terms, decoded)


PERCEPTUAL: dict[str, Callable[[Encoder], nn.Module | None]] = {
    "none": lambda _: None,
    "teacher": TeacherPerceptual,
    "lpips-convnext": lambda _: LpipsConvNext.pretrained(),
}
"""`StageConfig.perceptual` -> the loss, given the frozen initial encoder."""


class Stage(Phase):
    """What both stages share: the tokenizer, its images, and a discriminator where the configuration has one."""

    config: StageConfig
    module: VQRAE
    objective: TokenizerObjective

    def __init__(self, model: VQRAE, config: StageConfig, images: TrainingImages, processes: Processes) -> None:
        self.config = config
        self.module = model
        self.images = images
        if config.discriminator_start is not None:
            self.adversary = Adversary(PatchDiscriminator(config.discriminator_channels), mean=processes.mean)

    def batch(self, step: int, rows: range) -> tuple[Tensor, ...]:
        """Pixels (len(rows), 3, H, W) in [-1, 1]."""
        return (self.images.pixels(step, rows),)

    def data_state(self) -> dict[str, Any]:
        """The images' position."""
        return self.images.state_dict()

    @property
    def adversarial(self) -> StageConfig | None:
        """See `Phase.adversarial`."""
        return None if self.adversary is None else self.config

    @property
    def skipped(self) -> Mapping[str, str]:
        """Unreadable images."""
        return self.images.skipped

    def load_data_state(self, state: dict[str, Any]) -> None:
        """Go on from what `data_state` gave."""
        self.images.load_state_dict(state)


class Stage1(Stage):
    """The encoder is frozen: no gradient reaches it, and it is its own teacher."""

    def __init__(self, model: VQRAE, config: Stage1Config, images: TrainingImages, processes: Processes) -> None:
        super().__init__(model, config, images, processes)
        model.encoder.requires_grad_(False)
        self.objective = TokenizerObjective(model, model.encoder, config)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything but the encoder."""
        config = self.config
        return [{"params": trainable(self.module), "lr": config.learning_rate, "end_factor": config.end_factor}]


class Stage2(Stage):
    """Everything learns, the encoder at its own, lower rate, next to a frozen copy of what it was."""

    config: Stage2Config

    def __init__(self, model: VQRAE, config: Stage2Config, images: TrainingImages, processes: Processes) -> None:
        super().__init__(model, config, images, processes)
        teacher = copy.deepcopy(model.encoder).requires_grad_(False)
        model.encoder.unfreeze()
        self.objective = TokenizerObjective(model, teacher, config, distillation=config.weights.distillation)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder at its own rate, and the rest."""
        model, config = self.module, self.config
        rest = (model.in_projection, model.quantizer, model.out_projection, model.decoder)
        return [
            {
                "params": trainable(model.encoder),
                "lr": config.encoder_learning_rate,
                "end_factor": config.encoder_end_factor or config.end_factor,
            },
            {
                "params": [parameter for part in rest for parameter in trainable(part)],
                "lr": config.learning_rate,
                "end_factor": config.end_factor,
            },
        ]


@torch.inference_mode()
def place_codes(model: VQRAE, images: TrainingImages, first_step: int, processes: Processes, seed: int) -> None:
    """Make the codes the centroids of the projected features of some batches, and the quantizer's map the identity.

    SimVQ moves all codes together, so how they lie relative to each other is decided here. All processes call it: each
    projects its share, and all get the first one's centroids.

    Args:
        model: changed in place, and moved to the processes' device.
        images: where the batches come from.
        first_step: names the first batch; past a stage's last step lie images that it does not train on.
        processes: those that share the work.
        seed: of the features that k-means starts from.
    """
    size = model.config.quantizer.codebook_size
    model.to(processes.device)
    rows = processes.share.rows(images.batch_size)
    batches: list[np.ndarray] = []
    while sum(len(batch) for batch in batches) < INIT_TOKENS_PER_CODE * size:
        pixels = images.pixels(first_step + len(batches), rows).to(processes.device)
        projected = model.in_projection(model.encoder(pixels)).flatten(0, 1).cpu().numpy()
        batches.append(np.concatenate(processes.gathered(projected)))
    clusters = KMeans(size, init="random", n_init=1, max_iter=INIT_ITERATIONS, random_state=seed)
    clusters.fit(np.concatenate(batches))
    model.quantizer.set_codes(torch.from_numpy(processes.gathered(clusters.cluster_centers_)[0]))
