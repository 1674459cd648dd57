"""A builder that was given images to calibrate on, made once for the tests of INT8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import tiny_model

from vqrae.calibration.images import CalibrationImages, calibration_images
from vqrae.checkpoint import open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.images.photographs import TRAIN, crops

COUNT = 8


@pytest.fixture(scope="session")
def shallow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one block each, for tests that build much of it."""
    folder = tmp_path_factory.mktemp("shallow") / "model"
    save_pretrained(tiny_model(depth=1), folder)
    return folder


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> CalibrationImages:
    """Crops of two photographs, none of which anything is verified on."""
    folder = tmp_path_factory.mktemp("calibration")
    for number, image in enumerate(crops({name: TRAIN[name] for name in ("china", "coins")}, COUNT)):
        image.save(folder / f"{number}.png")
    return calibration_images(folder, (32, 32), count=COUNT, seed=5)


@pytest.fixture(scope="session")
def int8_builder(checkpoint_folder: Path, calibration: CalibrationImages) -> Iterator[BundleBuilder]:
    opened = VqraeTokenizer(open_checkpoint(str(checkpoint_folder)))
    photographs = parity_images(None, (32, 32), 8)
    with BundleBuilder(opened, photographs, lambda _: None, calibration) as builder:
        yield builder
