"""What is calibrated here: the traced graphs of the small real checkpoint, and images and tokens to run them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import random_images, roles

from vqrae.calibration.layers import Product, matrix_products


@pytest.fixture(scope="session")
def encode_graph(exported: Path) -> Path:
    """Images -> indices and features, in FP32; not to be changed."""
    return exported / "encode.onnx"


@pytest.fixture(scope="session")
def decode_graph(exported: Path) -> Path:
    """Indices -> images, in FP32; not to be changed."""
    return exported / "decode.onnx"


@pytest.fixture(scope="session")
def products(encode_graph: Path) -> tuple[Product, ...]:
    """The encoder's."""
    return matrix_products(encode_graph, roles())


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    """Six of 32×32: one whole batch, and one that is not."""
    found: NDArray[np.uint8] = random_images(6).numpy()
    return found


@pytest.fixture(scope="session")
def indices() -> NDArray[np.int32]:
    """Six grids of tokens."""
    return np.random.default_rng(0).integers(0, 64, (6, 4, 4), dtype=np.int32)
