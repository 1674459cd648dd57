from __future__ import annotations

import numpy as np
import pytest

from vqrae.benchmarks.report.picture import CELL, COLUMNS, GAP, MARGIN, reconstruction_picture
from vqrae.runtimes.errors import ImageError

GRAY = np.full((2, 8, 8, 3), 90, np.uint8)


def test_originals_above_reconstructions_below():
    picture = np.asarray(reconstruction_picture(GRAY, GRAY + 60, ["one", "two"]))
    column = picture[:, MARGIN + CELL // 2, 0]
    assert (column == 90).sum() == (column == 150).sum() == CELL
    assert np.flatnonzero(column == 90).max() + GAP < np.flatnonzero(column == 150).min()


def test_more_photographs_than_columns_start_new_rows():
    many = np.zeros((COLUMNS + 1, 8, 8, 3), np.uint8)
    wide = reconstruction_picture(many[:COLUMNS], many[:COLUMNS], ["a"] * COLUMNS)
    tall = reconstruction_picture(many, many, ["a"] * (COLUMNS + 1))
    assert tall.width == wide.width
    assert tall.height > 1.9 * wide.height


def test_large_images_keep_their_size_and_shape():
    images = np.zeros((1, 300, 400, 3), np.uint8)
    assert reconstruction_picture(images, images, ["a" * 200]).width == 400 + 2 * MARGIN


@pytest.mark.parametrize(
    ("originals", "reconstructions", "labels", "message"),
    [
        (GRAY[:0], GRAY[:0], [], r"originals: got uint8 \(0, 8, 8, 3\)"),
        (GRAY, GRAY.astype(float), ["", ""], "reconstructions: got float64"),
        (GRAY, GRAY[:1], ["", ""], r"got shape \(1, 8, 8, 3\); expected \(2, 8, 8, 3\), as the originals"),
        (GRAY, GRAY, ["one"], "labels: got 1; expected 2, one per photograph"),
    ],
)
def test_what_does_not_pair_up_is_refused(originals, reconstructions, labels, message):
    with pytest.raises(ImageError, match=message):
        reconstruction_picture(originals, reconstructions, labels)
