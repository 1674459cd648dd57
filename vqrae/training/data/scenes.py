"""A small labelled world that needs no download: shapes filled and backed with photographic texture.

Each scene holds one main object and up to three smaller companions of the same shape and color. A scene is a pure
function of its random generator and the photographs, so a seed names a whole data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "crescent")
COLORS = {
    "red": (220, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (235, 215, 50),
    "green": (50, 170, 70),
    "cyan": (50, 190, 200),
    "blue": (50, 80, 210),
    "purple": (150, 60, 180),
    "white": (235, 235, 235),
}
GRID = 3
"""Positions are the cells of a 3×3 grid."""
MAX_COUNT = 4

ATTRIBUTES = {"shape": len(SHAPES), "color": len(COLORS), "position": GRID * GRID, "count": MAX_COUNT}
"""Label name -> number of classes."""

SUPERSAMPLING = 3
"""Masks are drawn this much larger and averaged down, for smooth edges."""


class SceneBatch(NamedTuple):
    """Scenes and their labels."""

    images: NDArray[np.uint8]
    """(B, S, S, 3) RGB."""
    labels: dict[str, NDArray[np.int64]]
    """Attribute -> class (B,)."""
    masks: NDArray[np.int64]
    """(B, S, S): 0 for background, else 1 + shape."""


class _Texture(NamedTuple):
    """A square of a photograph."""

    photograph: Image.Image
    box: tuple[float, float, float, float]


class _Plan(NamedTuple):
    """What is random about a scene; the first object is the main one."""

    labels: dict[str, int]
    objects: list[tuple[NDArray[np.float64], float, float]]
    """Center (x, y), radius and angle."""
    background: _Texture
    grain: _Texture


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Draws scenes of one size over the given photographs."""

    photographs: Sequence[Image.Image]
    size: int

    def batch(self, count: int, seed: Sequence[int]) -> SceneBatch:
        """`count` scenes; the same seed gives the same bytes."""
        return self.rows(range(count), seed)

    def rows(self, rows: range, seed: Sequence[int]) -> SceneBatch:
        """Neighbouring rows of a batch of that seed, however long it is; those before them are planned, not painted."""
        rng = np.random.default_rng(seed)
        plans = [self._plan(rng) for _ in range(rows.stop)][rows.start :]
        images = np.empty((len(plans), self.size, self.size, 3), np.uint8)
        masks = np.empty((len(plans), self.size, self.size), np.int64)
        for row, plan in enumerate(plans):
            images[row], masks[row] = self._draw(plan)
        labels = {name: np.array([plan.labels[name] for plan in plans], np.int64) for name in ATTRIBUTES}
        return SceneBatch(images, labels, masks)

    def _plan(self, rng: np.random.Generator) -> _Plan:
        labels = {name: int(rng.integers(classes)) for name, classes in ATTRIBUTES.items()}
        return _Plan(labels, self._objects(rng, labels), self._texture(rng), self._texture(rng))

    def _objects(
        self, rng: np.random.Generator, labels: dict[str, int]
    ) -> list[tuple[NDArray[np.float64], float, float]]:
        """The main object and its companions, which never overlap it."""
        cell = self.size / GRID
        row, column = divmod(labels["position"], GRID)
        center = ((column + 0.5) * cell, (row + 0.5) * cell) + rng.uniform(-0.15, 0.15, 2) * cell
        placed = [(center, rng.uniform(0.42, 0.52) * cell)]
        while len(placed) < labels["count"] + 1:
            radius = rng.uniform(0.2, 0.25) * cell
            center = rng.uniform(radius, self.size - radius, 2)
            if all(np.hypot(*(center - other)) > radius + size + 2 for other, size in placed):
                placed.append((center, radius))
        return [(center, radius, rng.uniform(-0.3, 0.3)) for center, radius in placed]

    def _texture(self, rng: np.random.Generator) -> _Texture:
        """A random square of a random photograph."""
        photograph = self.photographs[int(rng.integers(len(self.photographs)))]
        side = min(photograph.size) * rng.uniform(0.3, 0.9)
        left, top = (rng.uniform(0, length - side) for length in photograph.size)
        return _Texture(photograph, (left, top, left + side, top + side))

    def _draw(self, plan: _Plan) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The image (S, S, 3) and the mask (S, S)."""
        coverage = self._coverage(plan)
        background, grain = self._resized(plan.background), self._resized(plan.grain).mean(2, keepdims=True)
        contrast = 0.45 * (grain - grain.mean()) / (grain.std() + 8)
        fill = np.array(list(COLORS.values())[plan.labels["color"]]) * np.clip(1 + contrast, 0.4, 1.6)
        alpha = coverage[..., None]
        image = np.clip(alpha * fill + (1 - alpha) * background, 0, 255).round().astype(np.uint8)
        return image, np.where(coverage > 0.5, plan.labels["shape"] + 1, 0)

    def _coverage(self, plan: _Plan) -> NDArray[np.float64]:
        """How much of each pixel the objects cover: (S, S) in [0, 1]."""
        large = self.size * SUPERSAMPLING
        mask = Image.new("L", (large, large))
        for center, radius, angle in plan.objects:
            _paint(mask, SHAPES[plan.labels["shape"]], center * SUPERSAMPLING, radius * SUPERSAMPLING, angle)
        return np.asarray(mask.resize((self.size, self.size), Image.Resampling.BOX), dtype=np.float64) / 255

    def _resized(self, texture: _Texture) -> NDArray[np.float64]:
        """Float (S, S, 3) in [0, 255]."""
        resized = texture.photograph.resize((self.size, self.size), Image.Resampling.BICUBIC, box=texture.box)
        return np.asarray(resized, dtype=np.float64)


def _paint(mask: Image.Image, shape: str, center: NDArray[np.float64], radius: float, angle: float) -> None:
    """Draw one white shape into the mask, in place."""
    draw = ImageDraw.Draw(mask)
    if shape in _POLYGONS:
        turns, radii = _POLYGONS[shape]
        points = [
            (
                center[0] + radius * r * math.sin(math.tau * t + angle),
                center[1] - radius * r * math.cos(math.tau * t + angle),
            )
            for t, r in zip(turns, radii, strict=True)
        ]
        draw.polygon(points, fill=255)
        return
    draw.circle(tuple(center), radius, fill=255)
    if shape == "ring":
        draw.circle(tuple(center), radius * 0.55, fill=0)
    elif shape == "crescent":
        bite = center + radius * 0.6 * np.array([math.cos(angle), math.sin(angle)])
        draw.circle(tuple(bite), radius * 0.75, fill=0)


def _regular(corners: int, offset: float = 0.0) -> tuple[list[float], list[float]]:
    return [offset + i / corners for i in range(corners)], [1.0] * corners


def _cross() -> tuple[list[float], list[float]]:
    """Four arms of width 0.6 around the center, as polar corners (turns, radii)."""
    quarter = [(-0.3, 1.0), (0.3, 1.0), (0.3, 0.3)]
    corners = [complex(*point) * 1j**-k for k in range(4) for point in quarter]
    return [math.atan2(c.real, c.imag) / math.tau for c in corners], [abs(c) for c in corners]


_POLYGONS = {
    "square": _regular(4, 0.125),
    "triangle": _regular(3),
    "diamond": ([0.0, 0.25, 0.5, 0.75], [1.0, 0.55, 1.0, 0.55]),
    "star": ([i / 10 for i in range(10)], [1.0, 0.42] * 5),
    "cross": _cross(),
}
"""Shape -> corners as turns clockwise from the top and distances in radii."""
