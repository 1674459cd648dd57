"""What another form of the model loses on the held-out photographs, measured as a bundle's evidence is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.export.parity_images import DEFAULT_COUNT, parity_images
from vqrae.export.reference import reference_from_model
from vqrae.export.tokenizers.vqrae import VqraeReference
from vqrae.model import VQRAE
from vqrae.runtimes.evidence import ParityFigures
from vqrae.runtimes.parity import Sample, measure

Arrays = tuple[NDArray[Any], ...]


def measured_fidelity(
    model: VQRAE,
    encode: Callable[[NDArray[np.uint8]], Arrays],
    decode: Callable[[NDArray[np.int32]], Arrays],
    *,
    batch: int,
    images: int = DEFAULT_COUNT,
) -> ParityFigures:
    """Compare two functions with the PyTorch model that they were made of.

    Args:
        model: the reference.
        encode: images uint8 (batch, H, W, 3) -> indices int32 (batch, h, w), features float32 (batch, h·w, C).
        decode: indices int32 (batch, h, w) -> images uint8 (batch, H, W, 3), alone in a tuple.
        batch: the only batch size that they take.
        images: photographs to compare on.
    """
    reference = reference_from_model(VqraeReference(model), parity_images(None, model.size, images).images)
    indices, features = _batch_by_batch(encode, reference.images, batch)
    (decoded,) = _batch_by_batch(decode, reference.indices, batch)
    (reconstructed,) = _batch_by_batch(decode, indices, batch)
    sample = Sample(indices=indices, features=features, decoded=decoded, reconstructed=reconstructed)
    return measure(reference, sample)


def _batch_by_batch(run: Callable[[NDArray[Any]], Arrays], values: NDArray[Any], batch: int) -> Arrays:
    """Run whole batches; the last is filled with zeros, whose results are dropped."""
    missing = -len(values) % batch
    filled = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
    parts = [run(filled[start : start + batch]) for start in range(0, len(filled), batch)]
    return tuple(np.concatenate(arrays)[: len(values)] for arrays in zip(*parts, strict=True))
