"""Photographs above, what the tokenizer keeps of them below, and a number under each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vqrae.runtimes.errors import ImageError, UsageError
from vqrae.runtimes.parity import psnr_db

CELL = 256
"""Smallest side, in pixels, at which an image is shown; smaller ones are enlarged."""
COLUMNS = 6
"""Photographs side by side, at most; more start a new pair of rows."""
MARGIN, GAP = 32, 12
FONT_SIZE = 22
GROUND, INK, QUIET = "#ffffff", "#1b1d21", "#6b7079"


def reconstruction_picture(
    originals: NDArray[np.uint8], reconstructions: NDArray[np.uint8], labels: Sequence[str]
) -> Image.Image:
    """Draw originals over reconstructions, with each photograph's label above and its PSNR below.

    Args:
        originals: uint8 (B, H, W, 3), after preprocessing.
        reconstructions: uint8 (B, H, W, 3).
        labels: one per photograph; may be empty strings.

    Returns:
        RGB, for a white page; about 1700 pixels wide with `COLUMNS` photographs of `CELL` pixels.

    Raises:
        ImageError: the shapes or counts differ, or there is no photograph.
    """
    check_pairs(originals, reconstructions, labels)
    _, height, width, _ = originals.shape
    scale = max(1.0, CELL / min(height, width))
    cell_width, cell_height = round(width * scale), round(height * scale)
    line = round(FONT_SIZE * 1.7)
    columns = min(len(labels), COLUMNS)
    block_height = line + cell_height + GAP + cell_height + line
    blocks = -(-len(labels) // COLUMNS)
    size = (
        2 * MARGIN + columns * (cell_width + GAP) - GAP,
        2 * MARGIN + blocks * (block_height + MARGIN) - MARGIN,
    )
    picture = Image.new("RGB", size, GROUND)
    for number, label in enumerate(labels):
        left = MARGIN + number % COLUMNS * (cell_width + GAP)
        top = MARGIN + number // COLUMNS * (block_height + MARGIN)
        pair = [_enlarged(image[number], cell_width, cell_height) for image in (originals, reconstructions)]
        picture.paste(pair[0], (left, top + line))
        picture.paste(pair[1], (left, top + line + cell_height + GAP))
        psnr = f"{psnr_db(originals[number], reconstructions[number]):.1f} dB"
        _write(picture, label, QUIET, left, top + line * 0.4, cell_width)
        _write(picture, psnr, INK, left, top + block_height - line * 0.45, cell_width)
    return picture


def check_picture_name(path: Path) -> None:
    """Refuse a name that Pillow cannot save under, before any work.

    Raises:
        UsageError: its suffix is no picture's.
    """
    Image.init()
    if path.suffix.lower() not in Image.EXTENSION:
        raise UsageError(str(path), got=f"suffix {path.suffix!r}", expected="a picture's name, such as picture.png")


def check_pairs(originals: NDArray[np.uint8], reconstructions: NDArray[np.uint8], labels: Sequence[str]) -> None:
    """Refuse what cannot be shown side by side.

    Raises:
        ImageError: the shapes or counts differ, or there is no photograph.
    """
    for name, images in (("originals", originals), ("reconstructions", reconstructions)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
            raise ImageError(name, got=f"{images.dtype} {images.shape}", expected="uint8 (B, H, W, 3)")
    if originals.shape != reconstructions.shape:
        got, expected = f"shape {reconstructions.shape}", f"{originals.shape}, as the originals"
        raise ImageError("reconstructions", got=got, expected=expected)
    if len(labels) != len(originals):
        raise ImageError("labels", got=str(len(labels)), expected=f"{len(originals)}, one per photograph")


def _enlarged(image: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)


def _write(picture: Image.Image, text: str, color: str, left: int, top: float, width: int) -> None:
    """One centered line, cut with an ellipsis where it would not fit."""
    font = ImageFont.load_default(FONT_SIZE)
    while text and font.getlength(text) > width:
        text = text.rstrip("…")[:-1].rstrip() + "…"
    ImageDraw.Draw(picture).text((left + width / 2, top), text, color, font, anchor="mm")
