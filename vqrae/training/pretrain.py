"""Encoder pre-training on labelled scenes, for presets whose encoder is not downloaded.

Semantics come from four classifications of the pooled features and one of every patch; a linear reconstruction of the
pixels keeps detail in the features, as the dense objectives of today's encoders do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.config import VQRAEConfig
from vqrae.encoder import Encoder
from vqrae.layers import patches_from_pixels, pixels_from_uint8, sincos_positions
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import storage_errors
from vqrae.training.config import PhaseConfig
from vqrae.training.data.scenes import ATTRIBUTES, SHAPES, Scenes
from vqrae.training.loop import Phase, trainable


class LabelledEncoder(nn.Module):
    """The encoder with the heads that only pre-training needs."""

    def __init__(self, encoder: Encoder, width: int, patch_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in ATTRIBUTES.items()})
        self.dense_head = nn.Linear(width, 1 + len(SHAPES))
        self.pixel_head = nn.Linear(width, 3 * patch_size**2)


class Pretraining(Phase):
    """Cross-entropy of the scene's attributes and of each patch's shape, plus the pixels by a linear head."""

    module: LabelledEncoder

    def __init__(self, model: VQRAEConfig, config: PhaseConfig, photographs: Sequence[Image.Image], seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.grid = model.grid
        self.patch_size = model.decoder.patch_size
        self.module = LabelledEncoder(Encoder(model.encoder), model.feature_width, self.patch_size)
        with torch.no_grad():
            positions = sincos_positions(model.grid, model.feature_width)
            self.module.encoder.network.embeddings.position_embedding.weight.copy_(positions)
        self.scenes = Scenes(photographs=photographs, size=model.image_size)
        self.seed = seed

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder and the heads."""
        heads = (self.module.heads, self.module.dense_head, self.module.pixel_head)
        return [
            {"params": trainable(self.module.encoder), "lr": self.config.encoder_learning_rate},
            {"params": [p for head in heads for p in trainable(head)], "lr": self.config.learning_rate},
        ]

    def losses(self, step: int) -> dict[str, Tensor]:
        """Attribute, dense and pixel terms on one batch of scenes."""
        batch = self.scenes.batch(self.config.batch_size, [self.seed, step])
        pixels = pixels_from_uint8(torch.from_numpy(batch.images))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            features = self.module.encoder(pixels)
        features = features.float()
        pooled = features.mean(1)
        attributes = [
            F.cross_entropy(head(pooled), torch.from_numpy(batch.labels[name]))
            for name, head in self.module.heads.items()
        ]
        middle = self.patch_size // 2
        masks = torch.from_numpy(batch.masks)[:, middle :: self.patch_size, middle :: self.patch_size].flatten()
        dense = F.cross_entropy(self.module.dense_head(features).flatten(0, 1), masks)
        decoded = self.module.pixel_head(features)
        weights = self.config.weights
        return {
            "attributes": torch.stack(attributes).mean(),
            "dense": weights.dense * dense,
            "pixel": weights.pixel * F.mse_loss(decoded, patches_from_pixels(pixels, self.patch_size)),
        }

    def finish(self, folder: Path) -> None:
        """Write the encoder as a Hugging Face checkpoint, which `Encoder.from_pretrained` reads back."""
        with staged_folder(folder, overwrite=True) as staging, storage_errors(staging):
            self.module.encoder.network.save_pretrained(staging)
