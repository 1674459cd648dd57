from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from vqrae.runtimes.backends.openvino import OpenVinoSession
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo, TensorSpec
from vqrae.runtimes.sealed import Sealed

SPEC = GraphSpec(
    file="graph.xml",
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 3)),),
)
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x · WEIGHT."""
    x = ops.parameter([-1, 4], np.float32, name="x")
    y = ops.matmul(x, WEIGHT, transpose_a=False, transpose_b=False)
    x.output(0).set_names({"x"})
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x], "graph"), tmp_path / "graph.xml", compress_to_fp16=False)
    return tmp_path / "graph.xml"


def opened(path: Path, spec: GraphSpec = SPEC, **options: object) -> OpenVinoSession:
    chosen = LoadOptions(**options)  # type: ignore[arg-type] # as the test says
    spec = spec.model_copy(update={"file": path.name})
    return OpenVinoSession.open(Sealed.in_place(path.parent), spec, chosen, RuntimeInfo(name="openvino", built_with={}))


def test_it_runs_and_says_in_which_precision(graph: Path) -> None:
    feed = np.ones((5, 4), np.float32)
    with opened(graph, threads=1) as session:
        np.testing.assert_allclose(session.run({"x": feed})["y"], feed @ WEIGHT)
        assert (session.execution.device, session.execution.precision) == ("cpu", "f32 ×1")


def test_a_precision_that_no_graph_asked_for_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's own default on a processor with bfloat16 is bfloat16, without a word."""
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    monkeypatch.setattr("vqrae.runtimes.backends.openvino.AS_THE_GRAPH_SAYS", {"INFERENCE_PRECISION_HINT": "bf16"})
    with pytest.raises(RuntimeUnavailable, match="openvino: got matrix products in bf16; expected only f32, f16"):
        opened(graph)


def test_as_many_requests_as_streams(graph: Path) -> None:
    with opened(graph, threads=2, streams=2) as session:
        assert len(session._requests.empty()) >= 2


def test_the_cache_folder_holds_what_was_compiled(graph: Path, tmp_path: Path) -> None:
    with opened(graph, cache=tmp_path / "cache"):
        pass
    assert list((tmp_path / "cache").iterdir())


def test_a_device_without_its_driver(graph: Path) -> None:
    if "GPU" in openvino.Core().available_devices:
        pytest.skip("there is a GPU that OpenVINO runs on")
    with pytest.raises(RuntimeUnavailable, match="openvino on gpu: got the devices cpu; expected gpu; install"):
        opened(graph, device="gpu")


def test_another_signature_than_the_manifest_s(graph: Path) -> None:
    wide = SPEC.model_copy(update={"outputs": (TensorSpec(name="y", dtype="float32", shape=("batch", 9)),)})
    with pytest.raises(BundleError, match=r"outputs: got y float32 \(batch, 3\); expected y float32 \(batch, 9\)"):
        opened(graph, wide)


def test_an_operation_of_a_later_version_is_refused(graph: Path) -> None:
    text = graph.read_text()
    assert 'type="MatMul" version="opset1"' in text
    graph.write_text(text.replace('type="MatMul" version="opset1"', 'type="MatMul" version="opset99"'))
    with pytest.raises(BundleError, match=r"graph\.xml: got OpenVINO .* refuses it \(.*opset99.*\)") as caught:
        opened(graph)
    assert "\n" not in str(caught.value)


def test_a_failed_run_is_one_line(graph: Path) -> None:
    with opened(graph) as session, pytest.raises(RuntimeUnavailable, match=r"^openvino: got a failed run \(.*\)$"):
        session.run({"x": np.ones((5, 7), np.float32)})


def test_the_probe_runs_a_graph() -> None:
    assert OpenVinoSession.probe().startswith("ran on cpu; devices: cpu")
