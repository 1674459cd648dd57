from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqrae.images.photographs import HELD_OUT, TRAIN, photographs, write_photographs
from vqrae.runtimes.errors import UsageError


@pytest.fixture(scope="module")
def splits() -> tuple[dict[str, Image.Image], dict[str, Image.Image]]:
    return photographs(TRAIN), photographs(HELD_OUT)


def thumbnail(image: Image.Image) -> np.ndarray:
    """Brightness at 16×16, zero mean and unit length: what stays of a photograph that was resized or recolored."""
    values = np.asarray(image.convert("L").resize((16, 16)), dtype=np.float64)
    values -= values.mean()
    return (values / np.linalg.norm(values)).ravel()


def test_the_splits_are_disjoint_by_content(splits: tuple[dict[str, Image.Image], dict[str, Image.Image]]) -> None:
    train, held_out = splits
    for name, image in held_out.items():
        for other_name, other in train.items():
            both = thumbnail(image), thumbnail(other), thumbnail(other.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
            similarity = max(both[0] @ both[1], both[0] @ both[2])
            assert similarity < 0.8, f"{name} looks like {other_name}"


def test_no_photograph_is_in_a_split_twice(splits: tuple[dict[str, Image.Image], dict[str, Image.Image]]) -> None:
    pixels = [image.tobytes() for split in splits for image in split.values()]
    assert len(set(pixels)) == len(TRAIN) + len(HELD_OUT)
    assert not set(TRAIN) & set(HELD_OUT)


def test_they_are_rgb_and_large_enough(splits: tuple[dict[str, Image.Image], dict[str, Image.Image]]) -> None:
    for split in splits:
        for image in split.values():
            assert image.mode == "RGB"
            assert min(image.size) >= 192, "two of the tiny preset's images across"


def test_written_photographs_are_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = {name: HELD_OUT[name] for name in ("cat",)}
    monkeypatch.setattr("vqrae.images.photographs.TRAIN", {"coins": TRAIN["coins"]})
    monkeypatch.setattr("vqrae.images.photographs.HELD_OUT", keep)
    folder = tmp_path / "photographs"
    write_photographs(folder)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")) == [
        "held-out/cat.png",
        "train/coins.png",
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "held-out" / "cat.png")), HELD_OUT["cat"]())
    with pytest.raises(UsageError, match="a folder that exists"):
        write_photographs(folder)
    write_photographs(folder, overwrite=True)
