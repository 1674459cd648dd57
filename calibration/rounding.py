"""Rounding that makes up for itself (GPTQ, Frantar et al. 2022).

Channels of the activations go up and down together, so an error made in one channel's weight can be taken back in those
that are still to be rounded. What is left is small where activations really vary; what they are on average is not
counted, since the bias takes that (see `bias`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from vqrae.calibration.layers import Product
from vqrae.calibration.plan import Scheme
from vqrae.calibration.ranges import Range
from vqrae.calibration.weights import LARGEST, PACKED_MOST, Bits, store_packed, store_whole, whole_numbers

BLOCK = 128
"""Channels whose errors are handed on one at a time; to all later ones they are handed on at once."""
DAMPING = 0.01
"""Of the mean variance, added to every channel's: one that hardly varies must not take on any error."""
HALF_REACH = float(np.finfo(np.float16).max)
Nearest = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""One channel's weights (O,) -> the nearest that can be stored."""


class Shelf:
    """A folder of arrays: at the paper's scale covariances and rounded weights are gigabytes, and seldom needed.

    The system keeps in memory what fits there, and reads the rest again.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` exists, and outlives every array; who made it deletes it."""
        self._folder = folder
        self._count = 0

    def put(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write an array; the same values, read-only, mapped from the file."""
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        np.save(path, array)
        mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return mapped


class Rounding:
    """Rounds the weights of one graph. What was rounded for one plan is kept for the next."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._kept: dict[tuple[str, str], NDArray[np.float32]] = {}

    def round_pairs(
        self,
        model: ModelProto,
        products: Sequence[Product],
        weights: Mapping[str, NDArray[np.float32]],
        ranges: Mapping[str, Range],
    ) -> dict[str, NDArray[np.float32]]:
        """Round the weights of products at INT8 anew, to the scales that they have; changes the model in place.

        Args:
            model: a graph with Q/DQ.
            products: at INT8, as they were named before it.
            weights: name -> what the weight was (C, O).
            ranges: of the products' first inputs.

        Returns:
            Name of a weight -> what it was, less what it is now (C, O).
        """
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = {node.name: node for node in model.graph.node}
        made_by = {output: node for node in model.graph.node for output in node.output}
        errors = {}
        for product in products:
            if not product.has_weight:
                continue
            name = product.inputs[1]
            stored, scale = (constants[part] for part in made_by[nodes[product.node].input[1]].input[:2])
            scale_O = numpy_helper.to_array(scale)
            rounded_CO = self._rounded(product, weights[name], ranges, "int8", steps(scale_O, LARGEST[8]))
            stored.CopyFrom(numpy_helper.from_array(np.round(rounded_CO / scale_O).astype(np.int8), stored.name))
            errors[name] = weights[name] - rounded_CO
        return errors

    def store(
        self, model: ModelProto, product: Product, ranges: Mapping[str, Range], scheme: Scheme
    ) -> NDArray[np.float32]:
        """Store the weight of a product that stays float in fewer bytes.

        In 12 bits, in 16 if it is large, or in FP16 where a runtime takes no whole numbers. Changes the model in place.

        Returns:
            What the weight was, less what it is now (C, O).
        """
        name = product.inputs[1]
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
        weight_CO = numpy_helper.to_array(tensor)
        if scheme == "symmetric":
            if np.abs(weight_CO).max() > HALF_REACH:
                return np.zeros_like(weight_CO)  # FP16 cannot hold it, and it stays as it is
            rounded_CO = self._rounded(product, weight_CO, ranges, "fp16", _half)
            tensor.CopyFrom(numpy_helper.from_array(rounded_CO, name))
        else:
            bits: Bits = 12 if weight_CO.size <= PACKED_MOST else 16
            _, scale_O = whole_numbers(weight_CO, bits)
            grid = steps(scale_O, LARGEST[bits])
            rounded_CO = self._rounded(product, weight_CO, ranges, f"{bits} bits", grid)
            store = store_packed if bits == 12 else store_whole
            store(model, name, np.round(rounded_CO / scale_O).astype(np.int16), scale_O)
        return weight_CO - rounded_CO

    def _rounded(
        self,
        product: Product,
        weight_CO: NDArray[np.float32],
        ranges: Mapping[str, Range],
        grid: str,
        nearest: Nearest,
    ) -> NDArray[np.float32]:
        """A weight on a grid of this name: the grid follows from the weight, and the covariance from the graph."""
        key = product.inputs[1], grid
        if key not in self._kept:
            covariance_CC = ranges[product.inputs[0]].covariance_CC
            if covariance_CC is None:
                raise ValueError(f"{product.layer} takes in what has no axis of tokens")
            self._kept[key] = self._shelf.put(compensated(weight_CO, covariance_CC, nearest))
        return self._kept[key]


def steps(scale_O: NDArray[np.float32], largest: int) -> Nearest:
    """Rounds to multiples of a scale, up to the largest."""
    return lambda row_O: np.clip(np.round(row_O / scale_O), -largest, largest) * scale_O


def _half(row_O: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(row_O, -HALF_REACH, HALF_REACH).astype(np.float16).astype(np.float64)


def compensated(
    weight_CO: NDArray[np.float32], covariance_CC: NDArray[np.float32], nearest: Nearest
) -> NDArray[np.float32]:
    """Round a weight (C, O) so that its product with such activations changes least; (C, O) again.

    Args:
        weight_CO: what is to be stored.
        covariance_CC: of the activations' channels.
        nearest: rounds one channel.
    """
    # The channels that vary most come first, while there are many left to take on their errors.
    order = np.argsort(-np.diag(covariance_CC), kind="stable")
    upper_CC = _shares(covariance_CC.astype(np.float64)[np.ix_(order, order)])
    rest_CO = weight_CO.astype(np.float64)[order]
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.empty_like(rest_CO[start:stop])
        for row in range(start, stop):
            rounded_O = nearest(rest_CO[row])
            errors[row - start] = (rest_CO[row] - rounded_O) / upper_CC[row, row]
            rest_CO[row] = rounded_O
            rest_CO[row + 1 : stop] -= np.outer(upper_CC[row, row + 1 : stop], errors[row - start])
        rest_CO[stop:] -= upper_CC[start:stop, stop:].T @ errors
    found_CO = np.empty_like(weight_CO)
    found_CO[order] = rest_CO
    return found_CO


def _shares(covariance_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """How each channel's error is shared out among later ones: the upper Cholesky factor of the inverse."""
    damping = max(DAMPING * np.diag(covariance_CC).mean(), np.finfo(np.float32).tiny)
    return np.linalg.cholesky(np.linalg.inv(covariance_CC + damping * np.eye(len(covariance_CC)))).T
