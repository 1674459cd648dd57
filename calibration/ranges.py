"""What values flow through a graph: run it on the calibration images and keep, of each tensor, how far they reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from vqrae.calibration.plan import RangeMethod
from vqrae.runtimes.errors import CheckpointError

BATCH = 4
"""Images that run at once; what they make is held only until the next."""
BINS = 2048
PERCENTILE = 99.99
TOKEN_AXES = 3
"""Axes of (B, N, C)."""
COVARIANCE_ROWS = 8192
"""Tokens that a covariance is taken from, evenly spread over all images: those beside each other say much the same."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """What one tensor held."""

    low: float
    high: float
    """The interval that INT8 is to cover, by the method that was asked for."""
    largest_C: NDArray[np.float32]
    """Largest magnitude in each channel, which is the last axis."""
    mean_C: NDArray[np.float32]
    """Mean of each channel."""
    covariance_CC: NDArray[np.float32] | None
    """Of the channels with each other; None where it was not asked for, and of tensors with more axes than (B, N, C),
    such as attention's."""


def activation_ranges(
    path: Path, tensors: Mapping[str, str], inputs: NDArray[Any], method: RangeMethod, *, covariances: bool = True
) -> dict[str, Range]:
    """Run a graph and observe some of its tensors.

    Args:
        path: an ONNX graph with one input.
        tensors: names of tensors -> the layer that takes them in, for errors.
        inputs: what goes in, batch first: images uint8 (B, H, W, 3), or indices int32 (B, h, w).
        method: `minmax` covers all that was seen; `percentile` all but 0.005 % at each end; `entropy` what loses the
            least information (onnxruntime's collectors).
        covariances: whether they are wanted too; of wide tensors they take longer than the graph.

    Returns:
        Tensor -> its range.

    Raises:
        CheckpointError: a tensor holds no numbers, or one value only: the model is broken there.
    """
    seen = {tensor: _Observation(layer, covariance=covariances) for tensor, layer in tensors.items()}
    collector = None if method == "minmax" else _collector(method)
    with _observed(path, list(tensors)) as session:
        name = session.get_inputs()[0].name
        for start in range(0, len(inputs), BATCH):
            batch = inputs[start : start + BATCH]
            values = dict(zip(tensors, session.run(list(tensors), {name: batch}), strict=True))
            for tensor, array in values.items():
                seen[tensor].add(array, len(batch), len(inputs))
            if collector is not None:
                with redirect_stdout(None):  # it tells its progress
                    collector.collect({tensor: [array] for tensor, array in values.items()})
    found = {tensor: observation.range() for tensor, observation in seen.items()}
    if collector is not None:
        with redirect_stdout(None):
            limits = collector.compute_collection_result()
        for tensor, (low, high, *_) in limits.items():
            found[tensor] = replace(found[tensor], low=float(low), high=float(high))
    return found


class _Observation:
    """What one tensor held so far."""

    def __init__(self, layer: str, *, covariance: bool) -> None:
        self._layer = layer
        self._covariance = covariance
        self._low, self._high = np.inf, -np.inf
        self._largest_C = self._mean_C = np.zeros(1, np.float32)
        self._moments: _Moments | None = None

    def add(self, array: NDArray[np.float32], images: int, of: int) -> None:
        """What it held for `images` images out of `of`."""
        if not np.isfinite(array).all():
            raise CheckpointError(self._subject, got="values that are not numbers", expected="finite ones")
        self._low, self._high = min(self._low, array.min()), max(self._high, array.max())
        rows = array.reshape(-1, array.shape[-1])
        self._largest_C = np.maximum(self._largest_C, np.abs(rows).max(0))
        self._mean_C = self._mean_C + rows.mean(0) * images / of
        if self._covariance and array.ndim <= TOKEN_AXES:
            some = rows[:: _odd(len(rows) * of // (images * COVARIANCE_ROWS))]
            self._moments = self._moments or _Moments(some)
            self._moments.add(some)

    def range(self) -> Range:
        """All of it."""
        if self._low == self._high:
            raise CheckpointError(self._subject, got=f"nothing but {self._low:g}", expected="values that differ")
        return Range(
            low=float(self._low),
            high=float(self._high),
            largest_C=self._largest_C,
            mean_C=self._mean_C,
            covariance_CC=None if self._moments is None else self._moments.covariance(),
        )

    @property
    def _subject(self) -> str:
        return f"activations of {self._layer}"


def _odd(step: int) -> int:
    """An even step would see the same columns of every image."""
    return step | 1


class _Moments:
    """Sums for a covariance, around what the first rows are on average: far from zero, FP32 would lose it."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._center_C = rows.mean(0)
        self._sum_C = np.zeros(rows.shape[1])
        self._products_CC = np.zeros((rows.shape[1], rows.shape[1]), np.float32)
        self._count = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        offsets = rows - self._center_C
        self._sum_C += offsets.sum(0, np.float64)
        self._products_CC += offsets.T @ offsets
        self._count += len(rows)

    def covariance(self) -> NDArray[np.float32]:
        mean_C = self._sum_C / self._count
        return (self._products_CC / self._count - np.outer(mean_C, mean_C)).astype(np.float32)


def _collector(method: RangeMethod) -> HistogramCollector:
    return HistogramCollector(
        method=method,
        symmetric=False,
        num_bins=BINS,
        num_quantized_bins=BINS // 16,
        percentile=PERCENTILE,
        scenario="same",
    )


@contextmanager
def _observed(path: Path, tensors: Sequence[str]) -> Iterator[onnxruntime.InferenceSession]:
    """A session whose outputs are these tensors."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors)
    with TemporaryDirectory(prefix="vqrae-ranges-") as folder:
        observed = Path(folder) / "graph.onnx"
        onnx.save(model, observed, save_as_external_data=True, location="weights")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        yield onnxruntime.InferenceSession(observed, options, providers=["CPUExecutionProvider"])
