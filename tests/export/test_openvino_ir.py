from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from tiny_models import tiny_model

from vqrae.export.form import FP16
from vqrae.export.formats.openvino import ir_from_onnx
from vqrae.export.onnx_graph import LAYER_METADATA, graph_from_plan
from vqrae.export.tokenizers.vqrae import graph_plans
from vqrae.runtimes.errors import RuntimeUnavailable


def constants(path: Path, least: int) -> dict[str, int]:
    """Constants of at least so many values, by dtype."""
    found: dict[str, int] = {}
    for operation in openvino.Core().read_model(path).get_ops():
        if operation.get_type_name() == "Constant" and np.prod(operation.get_output_shape(0)) >= least:
            dtype = operation.get_element_type().get_type_name()
            found[dtype] = found.get(dtype, 0) + 1
    return found


def test_fp16_keeps_the_scores_in_fp32_and_nothing_else_large(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    encode, _ = graph_plans(tiny_model(), split=False)
    graph_from_plan(encode, tmp_path, FP16)
    path = ir_from_onnx(tmp_path / "encode.onnx", tmp_path / "ir")
    # Large are the matrices: 64 codes × 32, four in each of two blocks, and the patch embedding.
    assert constants(path, 1024) == {"f16": 9, "f32": 1}


def save_graph(path: Path, node: onnx.NodeProto) -> None:
    node.metadata_props.add(key=LAYER_METADATA, value="['', 'encoder', 'encoder.blocks.0', 'det_1']")
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [3, 3]), ("y", []))
    ]
    graph = helper.make_graph([node], "graph", tensors[:1], tensors[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)


@pytest.mark.parametrize(("operator", "domain"), [("Det", ""), ("Frobnicate", "acme")])
def test_an_operator_that_openvino_lacks_is_named_with_its_layer(tmp_path: Path, operator: str, domain: str) -> None:
    save_graph(tmp_path / "encode.onnx", helper.make_node(operator, ["x"], ["y"], name="node_odd", domain=domain))
    message = (
        rf"^encode\.onnx, node node_odd of the layer encoder\.blocks\.0: got the operator {operator}; "
        r"expected one that OpenVINO has; export to another format$"
    )
    with pytest.raises(RuntimeUnavailable, match=message):
        ir_from_onnx(tmp_path / "encode.onnx", tmp_path)
    assert not (tmp_path / "encode.xml").exists()


def test_what_openvino_does_not_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "encode.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeUnavailable, match=r"encode\.onnx: got a graph that OpenVINO does not read \(.*\)$"):
        ir_from_onnx(tmp_path / "encode.onnx", tmp_path)
