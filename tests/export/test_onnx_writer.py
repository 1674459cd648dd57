"""Graphs of an ONNX bundle: weights lie beside them, where a runtime can map them, and give the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from vqrae.export.formats.onnx import MAPPED_BYTES, PAGE, write_beside

WEIGHTS = {"large": (PAGE // 4 + 1,), "larger": (3, PAGE), "small": (MAPPED_BYTES // 4 - 1,)}
"""Shapes of float32 constants; the first does not end where a page does."""


@pytest.fixture
def model() -> onnx.ModelProto:
    """y = x and the sum of every constant."""
    generator = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(generator.standard_normal(shape, np.float32), name) for name, shape in WEIGHTS.items()
    ]
    nodes = [helper.make_node("ReduceSum", [name], [f"{name}_sum"], keepdims=0) for name in WEIGHTS]
    nodes.append(helper.make_node("Sum", ["x", *(f"{name}_sum" for name in WEIGHTS)], ["y"]))
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "sums", edges[:1], edges[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_large_tensors_start_on_a_page_of_the_file_beside(model: onnx.ModelProto, tmp_path: Path) -> None:
    assert write_beside(model, tmp_path / "sums.onnx") == "sums.onnx.data"
    tensors = onnx.load(tmp_path / "sums.onnx", load_external_data=False).graph.initializer
    places = {tensor.name: ExternalDataInfo(tensor) for tensor in tensors if not tensor.HasField("raw_data")}
    assert set(places) == {"large", "larger"}
    assert all(place.location == "sums.onnx.data" and place.offset % PAGE == 0 for place in places.values())
    assert (tmp_path / "sums.onnx.data").stat().st_mode == (tmp_path / "sums.onnx").stat().st_mode


def test_the_graph_gives_the_same(model: onnx.ModelProto, tmp_path: Path) -> None:
    whole = model.SerializeToString()
    write_beside(model, tmp_path / "sums.onnx")
    feeds = {"x": np.array([0.5, 2], np.float32)}
    results = [
        onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for source in (whole, tmp_path / "sums.onnx")
    ]
    np.testing.assert_array_equal(*results)


def test_a_bundle_lists_the_weights(exported: Path) -> None:
    files = {path.name for path in exported.glob("*.onnx*")}
    assert files == {"encode.onnx", "encode.onnx.data", "decode.onnx", "decode.onnx.data"}
