"""A labelled world that needs no download: shapes, colors, positions, counts and textures of photographs.

A scene shows one large object and up to two small ones of the same shape and color, over a texture. Every scene can be
said in one sentence and asked about. Some pairs of shape and color are kept from those who learn to read and to paint;
the textures of tests are cut from another part of the photographs. A scene is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from vqrae.training.data.scenes import (
    COLORS,
    PlacedObject,
    SceneBatch,
    ScenePlan,
    Texture,
    add_companions,
    draw_scenes,
)

Split = Literal["any", "train", "test", "held-out"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""`any` shows all pairs of shape and color: what encoders, tokenizers and probes learn from, as those of the paper have
seen more than the task at hand. `train` leaves some out. `test` shows the pairs of `train` over other parts of the
photographs; `held-out` those that were left out, over the same parts as `test`."""

SHOWN_SHAPES = ("circle", "square", "triangle", "ring", "cross", "diamond")
"""Those that are told apart at 32 pixels."""

POSITIONS = ("top left", "top right", "bottom left", "bottom right")
"""Of the large object."""
COUNTS = ("one", "two", "three")
TEXTURES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "brick": skimage.data.brick,
    "grass": skimage.data.grass,
    "coins": skimage.data.coins,
    "galaxies": skimage.data.hubble_deep_field,
    "tissue": skimage.data.immunohistochemistry,
}
NAMES: dict[str, tuple[str, ...]] = {
    "shape": SHOWN_SHAPES,
    "color": tuple(COLORS),
    "position": POSITIONS,
    "count": COUNTS,
    "texture": tuple(TEXTURES),
}
"""Attribute -> what its classes are called."""

TRAINED_PART = 2 / 3
"""Of each photograph's width, from the left: where textures of `train` are cut; those of tests are from the rest."""
TEXTURE_SIDE = (0.22, 0.3)
"""Side of a texture, in widths of its photograph."""
GRAIN_CONTRAST, BACKGROUND_CONTRAST = 0.15, 0.5
"""Fainter than in the scenes of pre-training: a few codes are to say what is shown, not every blade of grass."""

Labels = Mapping[str, int]
"""Attribute -> class."""


def is_held_out(shape: int, color: int) -> bool:
    """Whether this pair is kept from training: one shape of each color."""
    return (shape + color) % len(SHOWN_SHAPES) == 0


@dataclass(frozen=True, kw_only=True)
class World:
    """Scenes of one size and split, as `scenes.SceneSource`."""

    size: int
    split: Split

    @property
    def attributes(self) -> dict[str, int]:
        """Attribute -> number of classes."""
        return {name: len(classes) for name, classes in NAMES.items()}

    def rows(self, rows: range, seed: Sequence[int], /) -> SceneBatch:
        """Neighbouring rows of the batch of a seed; rows are independent of each other."""
        return draw_scenes([self._plan(self._rng(row, seed)) for row in rows], self.size, NAMES)

    def labels(self, row: int, seed: Sequence[int]) -> dict[str, int]:
        """The labels of one row, without drawing it."""
        return self._labels(self._rng(row, seed))

    def batch(self, count: int, seed: Sequence[int]) -> SceneBatch:
        """The first `count` rows."""
        return self.rows(range(count), seed)

    def _rng(self, row: int, seed: Sequence[int]) -> np.random.Generator:
        """The split is part of the name, so that no two splits ever draw the same numbers."""
        return np.random.default_rng([*seed, SPLITS.index(self.split), row])

    def _labels(self, rng: np.random.Generator) -> dict[str, int]:
        labels = {name: int(rng.integers(classes)) for name, classes in self.attributes.items()}
        while self.split != "any" and is_held_out(labels["shape"], labels["color"]) != (self.split == "held-out"):
            labels["shape"] = int(rng.integers(len(SHOWN_SHAPES)))
        return labels

    def _plan(self, rng: np.random.Generator) -> ScenePlan:
        labels = self._labels(rng)
        grain = list(TEXTURES)[int(rng.integers(len(TEXTURES)))]
        background = self._texture(rng, NAMES["texture"][labels["texture"]])
        shape, color = SHOWN_SHAPES[labels["shape"]], NAMES["color"][labels["color"]]
        return ScenePlan(
            labels,
            shape,
            color,
            self._objects(rng, labels),
            background,
            self._texture(rng, grain),
            grain_contrast=GRAIN_CONTRAST,
            background_contrast=BACKGROUND_CONTRAST,
        )

    def _objects(self, rng: np.random.Generator, labels: Labels) -> list[PlacedObject]:
        cell = self.size / 2
        row, column = divmod(labels["position"], 2)
        center = ((column + 0.5) * cell, (row + 0.5) * cell) + rng.uniform(-0.06, 0.06, 2) * cell
        placed = [(center, rng.uniform(0.38, 0.46) * cell)]
        add_companions(rng, placed, labels["count"], self.size, (0.22 * cell, 0.26 * cell), gap=0.06 * cell)
        return [PlacedObject(center, radius, rng.uniform(-0.2, 0.2)) for center, radius in placed]

    def _texture(self, rng: np.random.Generator, name: str) -> Texture:
        """A random square of a photograph's part."""
        photograph = _photograph(name, self.size)
        width, height = photograph.size
        first, last = (
            (0.0, TRAINED_PART * width) if self.split in ("any", "train") else (TRAINED_PART * width, float(width))
        )
        side = rng.uniform(*TEXTURE_SIDE) * width
        left, top = rng.uniform(first, last - side), rng.uniform(0, height - side)
        return Texture(photograph, (left, top, left + side, top + side))


@cache
def _photograph(name: str, size: int) -> Image.Image:
    """Already shrunk to where the smallest texture still has as many pixels as a scene, which makes drawing fast."""
    photograph = Image.fromarray(TEXTURES[name]()).convert("RGB")
    factor = size / TEXTURE_SIDE[0] / photograph.width
    if factor >= 1:
        return photograph
    return photograph.resize([round(length * factor) for length in photograph.size], Image.Resampling.LANCZOS)


def labels_of(batch: SceneBatch) -> list[dict[str, int]]:
    """Each scene's labels."""
    return [{name: int(classes[row]) for name, classes in batch.labels.items()} for row in range(len(batch.images))]


def named(labels: Labels) -> dict[str, str]:
    """Attribute -> the class's name."""
    return {name: NAMES[name][label] for name, label in labels.items()}


def caption(labels: Labels) -> str:
    """One sentence that says all there is: `two red stars at the top left on brick`."""
    said = named(labels)
    return f"{said['count']} {said['color']} {_objects_word(said)} at the {said['position']} on {said['texture']}"


def _objects_word(said: Mapping[str, str]) -> str:
    plural = "crosses" if said["shape"] == "cross" else f"{said['shape']}s"
    return said["shape"] if said["count"] == "one" else plural


class Question(NamedTuple):
    """A question about a scene, and its answer."""

    topic: str
    """An attribute, or `yes or no`."""
    question: str
    answer: str


ASKED = {
    "shape": "what shape is it ?",
    "color": "what color is it ?",
    "position": "where is the large one ?",
    "count": "how many are there ?",
    "texture": "what is behind it ?",
}
YES_OR_NO = "yes or no"
TOPICS = (*ASKED, YES_OR_NO)


def questions(labels: Labels, rng: np.random.Generator) -> list[Question]:
    """One question on each attribute, and one on shape and color together whose answer is `yes` half of the time."""
    said = named(labels)
    asked = [Question(name, text, said[name]) for name, text in ASKED.items()]
    shown = {name: said[name] for name in ("color", "shape")}
    true = bool(rng.random() < 0.5)
    if not true:
        wrong = ("color", "shape")[int(rng.integers(2))]
        others = [name for name in NAMES[wrong] if name != said[wrong]]
        shown[wrong] = others[int(rng.integers(len(others)))]
    text = f"is it a {shown['color']} {shown['shape']} ?"
    return [*asked, Question(YES_OR_NO, text, "yes" if true else "no")]


def vocabulary() -> tuple[str, ...]:
    """Every word of captions, questions and answers, sorted."""
    names = [name for classes in NAMES.values() for name in classes]
    plurals = [_objects_word({"shape": shape, "count": "two"}) for shape in SHOWN_SHAPES]
    texts = [*names, *plurals, *ASKED.values(), "is it a ?", "at the on", "yes no"]
    return tuple(sorted({word for text in texts for word in text.split()}))


def read_caption(text: str) -> dict[str, int] | None:
    """The labels that `caption` says as this text; None of any other text."""
    words = text.split()
    shapes = {_objects_word({"shape": shape, "count": count}): shape for shape in SHOWN_SHAPES for count in COUNTS}
    if len(words) != 9 or words[2] not in shapes:
        return None
    said = {
        "shape": shapes[words[2]],
        "color": words[1],
        "position": " ".join(words[5:7]),
        "count": words[0],
        "texture": words[8],
    }
    if any(said[name] not in classes for name, classes in NAMES.items()):
        return None
    labels = {name: NAMES[name].index(value) for name, value in said.items()}
    return labels if caption(labels) == text else None
