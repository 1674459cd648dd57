"""Random square crops of photographs, flipped half of the time, colors jittered.

What is random about a crop is drawn before its photograph is opened, so that a process can draw a whole batch's numbers
and open only the photographs that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CROP_AREA = (0.1, 1.0)
"""Share of the largest centered square that a random crop covers."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class ColorShift(NamedTuple):
    """A change of colors at strength 1."""

    hue: float
    """Turn around the gray axis, in radians, -π to π."""
    saturation: float
    """What is added to the factor 1, -0.5 to 0.5."""
    brightness: float
    """As `saturation`."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ColorShift:
        """A random one."""
        return cls(rng.uniform(-math.pi, math.pi), *rng.uniform(-0.5, 0.5, 2).tolist())


class Crop(NamedTuple):
    """A crop of a photograph of any size."""

    area: float
    """Share of the largest centered square, in `CROP_AREA`."""
    left: float
    """Share of the free width that lies left of the crop, in [0, 1)."""
    top: float
    """Share of the free height that lies above it, in [0, 1)."""
    flipped: bool
    colors: ColorShift | None

    @classmethod
    def draw(cls, rng: np.random.Generator, *, colors: bool) -> Crop:
        """A random one, with a change of colors or without."""
        area, left, top = rng.uniform(*CROP_AREA), rng.random(), rng.random()
        return cls(area, left, top, rng.random() < 0.5, ColorShift.draw(rng) if colors else None)

    def cut(self, photograph: Image.Image, size: int, color_jitter: float = 0.0) -> NDArray[np.uint8]:
        """uint8 (S, S, 3) of an RGB photograph; `color_jitter` is the strength of the change of colors."""
        side = min(photograph.size) * math.sqrt(self.area)
        left, top = self.left * (photograph.width - side), self.top * (photograph.height - side)
        box = (left, top, left + side, top + side)
        crop = np.asarray(photograph.resize((size, size), Image.Resampling.BICUBIC, box=box))
        if self.flipped:
            crop = crop[:, ::-1]
        return crop if self.colors is None else shift_colors(crop, self.colors, color_jitter)


class CroppedPhotographs:
    """Random crops of numbered photographs; what cannot be read is an error."""

    def __init__(
        self,
        count: int,
        read: Callable[[int], Image.Image],
        size: int,
        color_jitter: float = 0.0,
        cached: int = 256,
    ) -> None:
        """`read` opens one of `count` photographs; `cached` of them are kept decoded in memory."""
        self.count = count
        self.size = size
        self.color_jitter = color_jitter
        self._read = lru_cache(maxsize=cached)(read)

    def batch(self, count: int, seed: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 (count, S, S, 3); the same seed gives the same bytes."""
        rng = np.random.default_rng(seed)
        images = np.empty((count, self.size, self.size, 3), np.uint8)
        for row in range(count):
            number = int(rng.integers(self.count))
            crop = Crop.draw(rng, colors=self.color_jitter > 0)
            images[row] = crop.cut(self._read(number), self.size, self.color_jitter)
        return images


def shift_colors(image: NDArray[np.uint8], shift: ColorShift, strength: float) -> NDArray[np.uint8]:
    """Turn the hue, scale saturation and brightness of uint8 (H, W, 3); at strength 1 any hue may become any other."""
    gray = image.astype(np.float32) @ LUMA
    rotation = _hue_rotation(shift.hue * strength)
    saturation, brightness = 1 + strength * np.array([shift.saturation, shift.brightness])
    chroma = (image - gray[..., None]) @ (rotation.T * saturation)
    return np.clip((gray[..., None] + chroma) * brightness, 0, 255).round().astype(np.uint8)


def _hue_rotation(angle: float) -> NDArray[np.float32]:
    """Rotation of RGB space by `angle` around the gray axis (Rodrigues' formula)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=np.float32) / math.sqrt(3)
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation.astype(np.float32)
