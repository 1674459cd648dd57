"""A small labelled world that needs no download: shapes filled and backed with photographic texture.

Each scene holds one main object and up to three smaller companions of the same shape and color. A scene is a pure
function of its random generator and the photographs, so a seed names a whole data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class SceneSource(Protocol):
    """Labelled scenes of one size, named by a seed."""

    @property
    def attributes(self) -> Mapping[str, int]:
        """Label name -> number of classes."""
        ...

    def rows(self, rows: range, seed: Sequence[int], /) -> SceneBatch:
        """Neighbouring rows of a batch of that seed, however long it is."""
        ...


class Texture(NamedTuple):
    """A square of a photograph."""

    photograph: Image.Image
    box: tuple[float, float, float, float]


class PlacedObject(NamedTuple):
    """Where an object lies, in pixels."""

    center: NDArray[np.float64]
    """(x, y)."""
    radius: float
    angle: float
    """In radians."""


class ScenePlan(NamedTuple):
    """What is random about a scene."""

    labels: dict[str, int]
    shape: str
    """One of `SHAPES`."""
    color: str
    """One of `COLORS`."""
    objects: list[PlacedObject]
    """The first is the main one."""
    background: Texture
    grain: Texture
    """Whose brightness the objects' color varies with."""
    grain_contrast: float = 0.45
    """How far it varies, as a share of the color, at one standard deviation of the texture."""
    background_contrast: float = 1.0
    """Of the background around its mean color."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Draws scenes of one size over the given photographs."""

    photographs: Sequence[Image.Image]
    size: int

    @property
    def attributes(self) -> Mapping[str, int]:
        """See `SceneSource`."""
        return ATTRIBUTES

    def batch(self, count: int, seed: Sequence[int]) -> SceneBatch:
        """`count` scenes; the same seed gives the same bytes."""
        return self.rows(range(count), seed)

    def rows(self, rows: range, seed: Sequence[int]) -> SceneBatch:
        """Neighbouring rows of a batch of that seed, however long it is; those before them are planned, not painted."""
        rng = np.random.default_rng(seed)
        return draw_scenes([self._plan(rng) for _ in range(rows.stop)][rows.start :], self.size, ATTRIBUTES)

    def _plan(self, rng: np.random.Generator) -> ScenePlan:
        labels = {name: int(rng.integers(classes)) for name, classes in ATTRIBUTES.items()}
        shape, color = SHAPES[labels["shape"]], list(COLORS)[labels["color"]]
        return ScenePlan(labels, shape, color, self._objects(rng, labels), self._texture(rng), self._texture(rng))

    def _objects(self, rng: np.random.Generator, labels: dict[str, int]) -> list[PlacedObject]:
        """The main object and its companions, which never overlap it."""
        cell = self.size / GRID
        row, column = divmod(labels["position"], GRID)
        center = ((column + 0.5) * cell, (row + 0.5) * cell) + rng.uniform(-0.15, 0.15, 2) * cell
        placed = [(center, rng.uniform(0.42, 0.52) * cell)]
        add_companions(rng, placed, labels["count"], self.size, (0.2 * cell, 0.25 * cell))
        return [PlacedObject(center, radius, rng.uniform(-0.3, 0.3)) for center, radius in placed]

    def _texture(self, rng: np.random.Generator) -> Texture:
        """A random square of a random photograph."""
        photograph = self.photographs[int(rng.integers(len(self.photographs)))]
        side = min(photograph.size) * rng.uniform(0.3, 0.9)
        left, top = (rng.uniform(0, length - side) for length in photograph.size)
        return Texture(photograph, (left, top, left + side, top + side))


def add_companions(
    rng: np.random.Generator,
    placed: list[tuple[NDArray[np.float64], float]],
    count: int,
    size: int,
    radii: tuple[float, float],
    gap: float = 2,
) -> None:
    """Put `count` more circles, center (x, y) and radius, into the image where they overlap none of `placed`."""
    wanted = len(placed) + count
    while len(placed) < wanted:
        radius = rng.uniform(*radii)
        center = rng.uniform(radius, size - radius, 2)
        if all(np.hypot(*(center - other)) > radius + side + gap for other, side in placed):
            placed.append((center, radius))


def draw_scenes(plans: Sequence[ScenePlan], size: int, attributes: Iterable[str]) -> SceneBatch:
    """Paint square images of `size` pixels; all plans have labels of these attributes."""
    images = np.empty((len(plans), size, size, 3), np.uint8)
    masks = np.empty((len(plans), size, size), np.int64)
    for row, plan in enumerate(plans):
        images[row], masks[row] = _draw(plan, size)
    labels = {name: np.array([plan.labels[name] for plan in plans], np.int64) for name in attributes}
    return SceneBatch(images, labels, masks)


def _draw(plan: ScenePlan, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The image (S, S, 3) and the mask (S, S)."""
    coverage = _coverage(plan, size)
    background, grain = _resized(plan.background, size), _resized(plan.grain, size).mean(2, keepdims=True)
    background = background.mean((0, 1)) + plan.background_contrast * (background - background.mean((0, 1)))
    contrast = plan.grain_contrast * (grain - grain.mean()) / (grain.std() + 8)
    fill = np.array(COLORS[plan.color]) * np.clip(1 + contrast, 0.4, 1.6)
    alpha = coverage[..., None]
    image = np.clip(alpha * fill + (1 - alpha) * background, 0, 255).round().astype(np.uint8)
    return image, np.where(coverage > 0.5, SHAPES.index(plan.shape) + 1, 0)


def _coverage(plan: ScenePlan, size: int) -> NDArray[np.float64]:
    """How much of each pixel the objects cover: (S, S) in [0, 1]."""
    large = size * SUPERSAMPLING
    mask = Image.new("L", (large, large))
    for center, radius, angle in plan.objects:
        _paint(mask, plan.shape, center * SUPERSAMPLING, radius * SUPERSAMPLING, angle)
    return np.asarray(mask.resize((size, size), Image.Resampling.BOX), dtype=np.float64) / 255


def _resized(texture: Texture, size: int) -> NDArray[np.float64]:
    """Float (S, S, 3) in [0, 255]."""
    resized = texture.photograph.resize((size, size), Image.Resampling.BICUBIC, box=texture.box)
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
