"""What flows through a graph against numpy, and what may not flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand_made_graphs import save_graph
from numpy.typing import NDArray
from onnx import helper

from vqrae.calibration.plan import RangeMethod
from vqrae.calibration.ranges import BATCH, COVARIANCE_ROWS, PERCENTILE, activation_ranges
from vqrae.runtimes.errors import CheckpointError

METHODS: tuple[RangeMethod, ...] = ("minmax", "percentile", "entropy")
TENSORS = {"hidden": "blocks.0.up", "positive": "blocks.0.down"}
FIRST = np.random.default_rng(0).integers(1, 6, (4, 5)).astype(np.float32)
SECOND = np.ones((5, 2), np.float32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hidden = x · first; positive = max(hidden, 0); y = positive · second."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["y"]),
    ]
    path = tmp_path_factory.mktemp("ranges") / "graph.onnx"
    return save_graph(path, nodes, {"first": FIRST, "second": SECOND}, {"x": ("b", "n", 4)}, {"y": ("b", "n", 2)})


@pytest.fixture
def inputs() -> NDArray[np.float32]:
    """Whole numbers, so that numpy's sums are exact too; the last batch is not a whole one."""
    return np.random.default_rng(1).integers(-9, 10, (2 * BATCH + 2, 3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def many() -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(2 * BATCH, 4000, 4)).astype(np.float32)


def test_minmax_is_what_numpy_sees(graph: Path, inputs: NDArray[np.float32]) -> None:
    found = activation_ranges(graph, TENSORS, inputs, "minmax")
    hidden = inputs @ FIRST
    for tensor, values in (("hidden", hidden), ("positive", np.maximum(hidden, 0))):
        assert (found[tensor].low, found[tensor].high) == (values.min(), values.max())
        np.testing.assert_allclose(found[tensor].mean_C, values.mean((0, 1)), rtol=1e-5)
        np.testing.assert_array_equal(found[tensor].largest_C, np.abs(values).max((0, 1)))
        covariance = np.cov(values.reshape(-1, 5).T, ddof=0)
        np.testing.assert_allclose(found[tensor].covariance_CC, covariance, rtol=1e-4, atol=1e-2)
    assert list(found) == list(TENSORS)


@pytest.mark.parametrize("number", [0, BATCH - 1, BATCH, -1])
def test_every_image_is_seen(graph: Path, inputs: NDArray[np.float32], number: int) -> None:
    inputs[number, 1] = [100, -100, 100, -100]
    hidden = inputs @ FIRST
    assert np.abs(hidden[number]).max() == np.abs(hidden).max(), "the planted one is the largest"
    found = activation_ranges(graph, TENSORS, inputs, "minmax")["hidden"]
    assert (found.low, found.high) == (hidden.min(), hidden.max())
    np.testing.assert_array_equal(found.largest_C, np.abs(hidden).max((0, 1)))


def test_a_covariance_far_from_zero_is_as_close(graph: Path, inputs: NDArray[np.float32]) -> None:
    near, far = (activation_ranges(graph, TENSORS, inputs + offset, "minmax")["hidden"] for offset in (0, 1e4))
    np.testing.assert_allclose(far.covariance_CC, near.covariance_CC, rtol=1e-2, atol=1)


def test_of_many_tokens_a_covariance_takes_every_third(graph: Path, many: NDArray[np.float32]) -> None:
    assert many.shape[0] * many.shape[1] // COVARIANCE_ROWS == 3
    found = activation_ranges(graph, TENSORS, many, "minmax")["hidden"]
    some = np.concatenate([many[start : start + BATCH].reshape(-1, 4)[::3] for start in range(0, len(many), BATCH)])
    np.testing.assert_allclose(found.covariance_CC, np.cov((some @ FIRST).T, ddof=0), rtol=1e-4)


def test_a_percentile_is_narrower_than_minmax(graph: Path, many: NDArray[np.float32]) -> None:
    whole, most = (activation_ranges(graph, TENSORS, many, method)["hidden"] for method in ("minmax", "percentile"))
    assert whole.low < most.low < most.high < whole.high
    hidden = many @ FIRST
    inside = ((hidden >= most.low) & (hidden <= most.high)).mean() * 100
    assert PERCENTILE - 0.02 <= inside < 100
    np.testing.assert_array_equal(most.largest_C, whole.largest_C)


def test_entropy_stays_within_minmax(graph: Path, inputs: NDArray[np.float32]) -> None:
    whole, best = (
        activation_ranges(graph, {"hidden": "up"}, inputs, method)["hidden"] for method in ("minmax", "entropy")
    )
    assert whole.low <= best.low < best.high <= whole.high


def test_covariances_are_left_out_where_nobody_wants_them(graph: Path, inputs: NDArray[np.float32]) -> None:
    found = activation_ranges(graph, TENSORS, inputs, "minmax", covariances=False)
    assert all(range_.covariance_CC is None for range_ in found.values())
    expected = activation_ranges(graph, TENSORS, inputs, "minmax")
    assert {name: (range_.low, range_.high) for name, range_ in found.items()} == {
        name: (range_.low, range_.high) for name, range_ in expected.items()
    }


def test_the_collectors_progress_is_not_printed(
    graph: Path, inputs: NDArray[np.float32], capfd: pytest.CaptureFixture[str]
) -> None:
    activation_ranges(graph, TENSORS, inputs, "percentile")
    assert capfd.readouterr() == ("", "")


def test_tokens_and_attention_can_be_observed(decode_graph: Path, indices: NDArray[np.int32]) -> None:
    """The last axis is the channels', of tensors with four axes too."""
    found = activation_ranges(decode_graph, {"softmax": "attention", "layer_norm": "up"}, indices, "minmax")
    assert (found["softmax"].largest_C.shape, found["layer_norm"].largest_C.shape) == ((16,), (32,))
    assert found["softmax"].covariance_CC is None, "a million numbers that nothing asks for"
    assert 0 <= found["softmax"].low < found["softmax"].high <= 1


def test_the_graph_is_left_as_it_was(graph: Path, inputs: NDArray[np.float32]) -> None:
    before = graph.read_bytes()
    activation_ranges(graph, TENSORS, inputs, "minmax")
    assert graph.read_bytes() == before
    assert list(graph.parent.iterdir()) == [graph]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0, 1])
def test_activations_of_one_value_are_refused(tmp_path: Path, method: RangeMethod, value: int) -> None:
    inputs = np.full((BATCH + 1, 3, 4), value, np.float32)
    tensors = {"same": "encoder.patch_embedding"}
    message = f"^activations of encoder.patch_embedding: got nothing but {value}; expected values that differ$"
    with pytest.raises(CheckpointError, match=message):
        activation_ranges(scaled_by_one(tmp_path / "graph.onnx"), tensors, inputs, method)


def scaled_by_one(path: Path) -> Path:
    """same = x · 1."""
    nodes = [helper.make_node("Mul", ["x", "one"], ["same"]), helper.make_node("Relu", ["same"], ["y"])]
    shape = {"x": ("b", 3, 4)}, {"y": ("b", 3, 4)}
    return save_graph(path, nodes, {"one": np.ones(4, np.float32)}, *shape)


EVERYWHERE = slice(None)


@pytest.mark.parametrize(
    ("method", "value", "where"),
    [
        ("minmax", np.inf, 0),
        ("minmax", np.inf, -1),
        ("minmax", -np.inf, -1),
        ("minmax", np.nan, EVERYWHERE),
        ("minmax", np.nan, 0),
        ("minmax", np.nan, -1),
        ("percentile", np.nan, EVERYWHERE),
        ("percentile", np.nan, -1),
        ("percentile", np.inf, 0),
        ("entropy", np.nan, -1),
    ],
)
def test_activations_that_are_not_numbers_are_refused(
    graph: Path, inputs: NDArray[np.float32], method: RangeMethod, value: float, where: int | slice
) -> None:
    inputs[where] = value
    message = "^activations of blocks.0.up: got values that are not numbers; expected finite ones$"
    with pytest.raises(CheckpointError, match=message):
        activation_ranges(graph, {"hidden": "blocks.0.up"}, inputs, method)
