"""Encoder pre-training on labelled scenes, for presets whose encoder is not downloaded.

Semantics come from classifications of the pooled features and one of every patch; a linear reconstruction of the
pixels keeps detail in the features, as the dense objectives of today's encoders do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.config import VQRAEConfig
from vqrae.model.encoder import Encoder
from vqrae.model.layers import patches_from_pixels, pixels_from_uint8, sincos_positions
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import storage_errors
from vqrae.training.config import AUTOCAST, PretrainConfig
from vqrae.training.data.scenes import SHAPES, SceneSource
from vqrae.training.phase import Outcome, Phase, trainable


class LabelledEncoder(nn.Module):
    """The encoder with the heads that only pre-training needs."""

    def __init__(self, encoder: Encoder, width: int, patch_size: int, attributes: Mapping[str, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in attributes.items()})
        self.dense_head = nn.Linear(width, 1 + len(SHAPES))
        self.pixel_head = nn.Linear(width, 3 * patch_size**2)


class LabelObjective(nn.Module):
    """Cross-entropy of the scene's attributes and of each patch's shape, plus the pixels by a linear head."""

    def __init__(self, labelled: LabelledEncoder, config: PretrainConfig, patch_size: int) -> None:
        super().__init__()
        self.labelled = labelled
        self.config = config
        self.patch_size = patch_size

    def forward(self, pixels: Tensor, masks: Tensor, labels: Tensor) -> Outcome:
        """Terms of one batch.

        Args:
            pixels: float32 (B, 3, S, S) in [-1, 1].
            masks: int64 (B, S, S), 0 for background, else 1 + shape.
            labels: int64 (B, attributes), in the order of the scenes' attributes.
        """
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=AUTOCAST[self.config.precision]):
            features = self.labelled.encoder(pixels)
        features = features.float()
        pooled = features.mean(1)
        heads = self.labelled.heads.values()
        attributes = [F.cross_entropy(head(pooled), classes) for head, classes in zip(heads, labels.T, strict=True)]
        middle = self.patch_size // 2
        centers = masks[:, middle :: self.patch_size, middle :: self.patch_size].flatten()
        dense = F.cross_entropy(self.labelled.dense_head(features).flatten(0, 1), centers)
        decoded = self.labelled.pixel_head(features)
        weights = self.config.weights
        terms = {
            "attributes": torch.stack(attributes).mean(),
            "dense": weights.dense * dense,
            "pixel": weights.pixel * F.mse_loss(decoded, patches_from_pixels(pixels, self.patch_size)),
        }
        return Outcome(terms)


class Pretraining(Phase):
    """The encoder from random weights, on scenes drawn step by step."""

    config: PretrainConfig
    module: LabelledEncoder

    def __init__(self, model: VQRAEConfig, config: PretrainConfig, scenes: SceneSource, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        encoder, patch = Encoder(model.encoder), model.decoder.patch_size
        self.module = LabelledEncoder(encoder, model.feature_width, patch, scenes.attributes)
        encoder.set_positions(sincos_positions(model.grid, model.feature_width))
        self.objective = LabelObjective(self.module, config, patch)
        self.scenes = scenes
        self.seed = seed

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder and the heads."""
        heads = (self.module.heads, self.module.dense_head, self.module.pixel_head)
        config = self.config
        return [
            {
                "params": trainable(self.module.encoder),
                "lr": config.encoder_learning_rate,
                "end_factor": config.encoder_end_factor or config.end_factor,
            },
            {
                "params": [parameter for head in heads for parameter in trainable(head)],
                "lr": config.learning_rate,
                "end_factor": config.end_factor,
            },
        ]

    def batch(self, step: int, rows: range) -> tuple[Tensor, ...]:
        """Pixels, masks and labels of scenes, as the objective takes them."""
        scenes = self.scenes.rows(rows, [self.seed, step])
        labels = np.stack([scenes.labels[name] for name in self.scenes.attributes], axis=1)
        return (
            pixels_from_uint8(torch.from_numpy(scenes.images)),
            torch.from_numpy(scenes.masks),
            torch.from_numpy(labels),
        )


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Write the vision network as a Hugging Face checkpoint, which `Encoder.from_pretrained` reads back."""
    with staged_folder(folder, overwrite=True) as staging, storage_errors(staging):
        staging.mkdir(exist_ok=True)
        encoder.save_network(staging)
