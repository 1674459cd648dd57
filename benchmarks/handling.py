"""What happens around inference, apart from it: an image file read and decoded, resized, and written as PNG.

Normalization is part of the graphs: bytes go in and bytes come out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.runtimes.latency import interleave, latency
from vqrae.runtimes.manifest import Record
from vqrae.runtimes.preprocess import open_image, prepare

MOST_IMAGES = 8
"""More would tell no more, and take longer."""


class Handling(Record):
    """Medians for one image, in milliseconds, on one thread; the same whatever runtime does the rest."""

    images: int
    """Files that each round goes through."""
    read_ms: float
    """From the file, which is in the disk's cache, to RGB pixels."""
    resize_ms: float
    """From these to the tokenizer's size, by the preprocessing rule."""
    write_ms: float
    """From a decoded image of that size to the bytes of a PNG."""


def measured_handling(
    photographs: Sequence[Path], size: tuple[int, int], *, rounds: int, progress: Callable[[int, int], None]
) -> Handling:
    """Time the three steps in turns, each over all files.

    Args:
        photographs: image files; of more than `MOST_IMAGES` the first.
        size: the tokenizer's, in pixels (H, W).
        rounds: timed turns.
        progress: called after every turn with the turns done and the turns in all.

    Raises:
        ImageError: a file cannot be read.
    """
    files = photographs[:MOST_IMAGES]
    sources = [open_image(file) for file in files]
    images = [prepare(source, *size) for source in sources]
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: [open_image(file) for file in files],
        "resize": lambda: [prepare(source, *size) for source in sources],
        "write": lambda: [_png(image) for image in images],
    }
    seconds = interleave(calls, rounds=rounds, warmup=1, progress=progress)
    read, resize, write = (latency(seconds[name]).p50_ms / len(files) for name in calls)
    return Handling(images=len(files), read_ms=read, resize_ms=resize, write_ms=write)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
