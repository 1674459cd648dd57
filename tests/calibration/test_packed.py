"""Twelve bits a number: nothing is lost, and a runtime puts them together again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hand_made_graphs import save_graph, weights_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from vqrae.calibration.layers import matrix_products
from vqrae.calibration.weights import LARGEST, NIBBLE, split, store_packed

WHOLE = st.integers(-LARGEST[12] - 1, LARGEST[12])


@pytest.mark.parametrize("shape", [(6, 5), (5, 6)])
@given(data=st.data())
def test_nothing_is_lost(shape: tuple[int, int], data: st.DataObject) -> None:
    whole = data.draw(hnp.arrays(np.int16, shape, elements=WHOLE))
    high, low, axis = split(whole)
    assert (high.dtype, low.dtype, low.size) == (np.int8, np.uint8, whole.size / 2)
    lower = np.concatenate([low // NIBBLE, low % NIBBLE], axis).astype(int)
    np.testing.assert_array_equal(high.astype(int) * NIBBLE + lower, whole)


@pytest.mark.parametrize("shape", [(6, 5), (5, 6)])
def test_the_graph_multiplies_by_what_was_packed(shape: tuple[int, int], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    whole_CO = random.integers(-LARGEST[12], LARGEST[12], shape, np.int16, endpoint=True)
    scale_O = random.uniform(0.1, 1, shape[1]).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    weights = {"w": np.zeros(shape, np.float32)}
    path = save_graph(tmp_path / "graph.onnx", nodes, weights, {"x": ("n", shape[0])}, {"y": ("n", shape[1])})
    model = onnx.load(path)
    store_packed(model, "w", whole_CO, scale_O)
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    assert sum(value.nbytes for name, value in weights_of(model).items() if "scale" not in name) == 6 * 5 * 1.5 + 4
    (product,) = matrix_products(path)
    assert (product.inputs, product.has_weight) == (("x", "w"), True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.eye(shape[0], dtype=np.float32)})
    np.testing.assert_array_equal(found, whole_CO * scale_O)
