"""The real photographs that come inside scikit-image and scikit-learn, split by photograph.

The held-out ones are never trained on: the shipped tokenizer, the demo and the parity checks are judged on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from vqrae.runtimes.staging import staged_folder

TRAIN: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "brick": skimage.data.brick,
    "camera": skimage.data.camera,
    "china": lambda: load_sample_image("china.jpg"),
    "coins": skimage.data.coins,
    "flower": lambda: load_sample_image("flower.jpg"),
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
    "hubble": skimage.data.hubble_deep_field,
    "tissue": skimage.data.immunohistochemistry,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "retina": skimage.data.retina,
    "rocket": skimage.data.rocket,
}
HELD_OUT: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "astronaut": skimage.data.astronaut,
    "cat": skimage.data.cat,
    "coffee": skimage.data.coffee,
}


def photographs(split: dict[str, Callable[[], NDArray[np.uint8]]]) -> dict[str, Image.Image]:
    """The photographs of a split as RGB, by name."""
    return {name: Image.fromarray(read()).convert("RGB") for name, read in split.items()}


def crops(split: dict[str, Callable[[], NDArray[np.uint8]]], count: int, seed: int = 0) -> Iterator[Image.Image]:
    """Seeded square crops of a split's photographs in turn, each of a quarter of the shorter side to all of it."""
    whole = list(photographs(split).values())
    rng = np.random.default_rng(seed)
    for number in range(count):
        photograph = whole[number % len(whole)]
        side = int(min(photograph.size) * rng.uniform(0.25, 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        yield photograph.crop((left, top, left + side, top + side))


def write_photographs(folder: Path, *, cropped: int = 0, overwrite: bool = False) -> None:
    """Write `train/` and `held-out/` PNG files below `folder`, ready for `vqrae train --data FOLDER/train`.

    With `cropped`, also so many crops of the training photographs into `calibration/`.
    """
    with staged_folder(folder, overwrite=overwrite) as staging:
        if cropped:
            (staging / "calibration").mkdir(parents=True)
            for number, image in enumerate(crops(TRAIN, cropped)):
                image.save(staging / "calibration" / f"{number:04d}.png")
        for name, split in (("train", TRAIN), ("held-out", HELD_OUT)):
            (staging / name).mkdir(parents=True)
            for title, image in photographs(split).items():
                image.save(staging / name / f"{title}.png")
