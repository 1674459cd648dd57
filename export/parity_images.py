"""The photographs that a bundle is verified on, and whose first ones become its golden samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.images.numbered import source_images
from vqrae.images.photographs import HELD_OUT, photographs
from vqrae.images.report import Damaged, LeftOut
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.preprocess import prepare

DEFAULT_COUNT = 16
GOLDEN_SCALE = 2
"""How much larger than the tokenizer's images the golden photographs are, so that the rule's antialiasing shows."""


@dataclass(frozen=True, kw_only=True)
class ParityImages:
    """Photographs and what the preprocessing rule makes of them."""

    names: tuple[str, ...]
    photographs: tuple[Image.Image, ...]
    images: NDArray[np.uint8]
    """(B, H, W, 3)."""
    left_out: tuple[LeftOut, ...] = ()
    """What of the source was not read."""
    damaged: tuple[Damaged, ...] = ()
    """What of it cannot be read, as far as it shows before images are."""


def parity_images(source: Path | None, size: tuple[int, int], count: int = DEFAULT_COUNT) -> ParityImages:
    """The first `count` images of a source, or the held-out photographs, whole and then in seeded crops.

    Args:
        source: see `vqrae.images.numbered.source_images`; None is the held-out photographs.
        size: (H, W) in pixels.
        count: how many at most.

    Raises:
        UsageError: `count` is not positive.
        DataError: no images in the source.
        ImageError: one of them cannot be read.
    """
    if count < 1:
        raise UsageError("number of images", got=str(count), expected="at least 1")
    held = None if source is None else source_images(source)
    if held is None:
        found = _held_out(count)
    else:
        found = [(PurePosixPath(held.name(it)).stem, held.read(it)) for it in range(min(count, len(held)))]
    names, sources = zip(*found, strict=True)
    left_out, damaged = ((), ()) if held is None else (held.left_out, held.damaged)
    images = _prepared(sources, size)
    return ParityImages(names=names, photographs=sources, images=images, left_out=left_out, damaged=damaged)


def _prepared(sources: Sequence[Image.Image], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.stack([prepare(source, *size) for source in sources])


def _held_out(count: int) -> list[tuple[str, Image.Image]]:
    """The whole photographs first; then crops of one quarter to one half of a side, from a fixed seed."""
    whole = list(photographs(HELD_OUT).items())
    rng = np.random.default_rng(0)
    found = whole[:count]
    while len(found) < count:
        name, photograph = whole[len(found) % len(whole)]
        side = int(min(photograph.size) * rng.uniform(0.25, 0.5))
        left, top = (int(rng.integers(0, length - side)) for length in photograph.size)
        found.append((f"{name} crop {len(found)}", photograph.crop((left, top, left + side, top + side))))
    return found


def golden_source(photograph: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The photograph, shrunk to what covers `GOLDEN_SCALE` × `size` (H, W) pixels, to be saved losslessly."""
    height, width = size
    scale = min(1.0, GOLDEN_SCALE * max(height / photograph.height, width / photograph.width))
    return photograph.resize((round(photograph.width * scale), round(photograph.height * scale)))
