"""Small images in rows, each row below what it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vqrae.benchmarks.picture import GROUND, INK

CELL, GAP, MARGIN, FONT_SIZE = 72, 6, 10, 14
"""In pixels; an image is enlarged to `CELL`."""


def grid_picture(images: NDArray[np.uint8], titles: Sequence[str]) -> Image.Image:
    """Draw uint8 (R, B, H, W, 3): R rows, each with a title above it."""
    rows, columns = images.shape[:2]
    line = FONT_SIZE + GAP
    width = 2 * MARGIN + columns * (CELL + GAP) - GAP
    picture = Image.new("RGB", (width, 2 * MARGIN + rows * (line + CELL + GAP) - GAP), GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for row, title in enumerate(titles):
        top = MARGIN + row * (line + CELL + GAP)
        draw.text((MARGIN, top), title, INK, font)
        for column, image in enumerate(images[row]):
            shown = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.LANCZOS)
            picture.paste(shown, (MARGIN + column * (CELL + GAP), top + line))
    return picture
