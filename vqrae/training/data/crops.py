"""Training images from a folder.

Every batch is a pure function of the seed and the step, so a resumed run needs no other record of its position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.runtimes.preprocess import open_image

CROP_AREA = (0.1, 1.0)
"""Share of the largest centered square that a random crop covers."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class CroppedPhotographs:
    """Random square crops of the photographs in a folder, flipped half of the time, colors jittered."""

    def __init__(self, paths: Sequence[Path], size: int, color_jitter: float = 0.0, cached: int = 256) -> None:
        """`cached` photographs are kept decoded in memory."""
        self.paths = list(paths)
        self.size = size
        self.color_jitter = color_jitter
        self._open = lru_cache(maxsize=cached)(open_image)

    def batch(self, count: int, seed: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 (count, S, S, 3); the same seed gives the same bytes."""
        rng = np.random.default_rng(seed)
        return (
            np.stack([self._crop(rng) for _ in range(count)])
            if count
            else np.empty((0, self.size, self.size, 3), np.uint8)
        )

    def _crop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        photograph = self._open(self.paths[rng.integers(len(self.paths))])
        side = min(photograph.size) * math.sqrt(rng.uniform(*CROP_AREA))
        left, top = (rng.uniform(0, length - side) for length in photograph.size)
        box = (left, top, left + side, top + side)
        crop = np.asarray(photograph.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return jitter_colors(crop, rng, self.color_jitter) if self.color_jitter else crop


def jitter_colors(image: NDArray[np.uint8], rng: np.random.Generator, strength: float) -> NDArray[np.uint8]:
    """Turn the hue, scale saturation and brightness of uint8 (H, W, 3); at strength 1 any hue may become any other."""
    gray = image.astype(np.float32) @ LUMA
    rotation = _hue_rotation(rng.uniform(-math.pi, math.pi) * strength)
    saturation, brightness = 1 + strength * rng.uniform(-0.5, 0.5, 2)
    chroma = (image - gray[..., None]) @ (rotation.T * saturation)
    return np.clip((gray[..., None] + chroma) * brightness, 0, 255).round().astype(np.uint8)


def _hue_rotation(angle: float) -> NDArray[np.float32]:
    """Rotation of RGB space by `angle` around the gray axis (Rodrigues' formula)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=np.float32) / math.sqrt(3)
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation.astype(np.float32)
