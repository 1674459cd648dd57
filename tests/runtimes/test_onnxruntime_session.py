from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from vqrae.runtimes.backends.onnxruntime import OnnxRuntimeSession
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo, read_manifest
from vqrae.runtimes.sealed import Sealed

CPU = LoadOptions(threads=1)


def opened(path: Path, spec: GraphSpec, options: LoadOptions = CPU) -> OnnxRuntimeSession:
    spec = spec.model_copy(update={"file": path.name})
    return OnnxRuntimeSession.open(
        Sealed.in_place(path.parent), spec, options, RuntimeInfo(name="onnxruntime", built_with={})
    )


@pytest.fixture
def spec(pristine_bundle: Path) -> GraphSpec:
    return read_manifest(pristine_bundle / "manifest.json").graphs["decode"]


def test_a_session_runs_and_says_what_ran(pristine_bundle: Path, spec: GraphSpec, reference: Any) -> None:
    indices = np.arange(12, dtype=np.int32).reshape(2, 2, 3)
    with opened(pristine_bundle / "decode.onnx", spec) as session:
        images = session.run({"indices": indices})["images"]
        execution = session.execution
    np.testing.assert_array_equal(images, reference.decode(indices))
    assert (execution.runtime, execution.runtime_version) == ("onnxruntime", onnxruntime.__version__)
    assert execution.device == "cpu"


def test_a_graph_that_differs_from_the_manifest_is_refused(pristine_bundle: Path, spec: GraphSpec) -> None:
    wide = spec.outputs[0].model_copy(update={"shape": ("batch", 8, 16, 3)})
    message = (
        r"decode\.onnx outputs: got images uint8 \(batch, 8, 12, 3\); "
        r"expected images uint8 \(batch, 8, 16, 3\), as the manifest says; export it again$"
    )
    with pytest.raises(BundleError, match=message):
        opened(pristine_bundle / "decode.onnx", spec.model_copy(update={"outputs": (wide,)}))


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, spec: GraphSpec, content: bytes) -> None:
    (tmp_path / "decode.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decode\.onnx: got ONNX Runtime .* refuses it \(.*\); expected a graph"):
        opened(tmp_path / "decode.onnx", spec)


def test_a_graph_of_a_later_opset_is_refused(pristine_bundle: Path, tmp_path: Path, spec: GraphSpec) -> None:
    model = onnx.load(pristine_bundle / "decode.onnx")
    model.opset_import[0].version = 9999
    onnx.save(model, tmp_path / "decode.onnx")
    with pytest.raises(BundleError, match=r"decode\.onnx: got ONNX Runtime .* refuses it \(.*9999.*\)") as caught:
        opened(tmp_path / "decode.onnx", spec)
    assert "\n" not in str(caught.value)


def test_a_failed_run_is_one_line(pristine_bundle: Path, spec: GraphSpec) -> None:
    session = opened(pristine_bundle / "decode.onnx", spec)
    with session, pytest.raises(RuntimeUnavailable, match=r"onnxruntime: got a failed run \(.*\)$"):
        session.run({"indices": np.zeros((1, 9, 9), np.int32)})


def test_an_unknown_device_is_refused(pristine_bundle: Path, spec: GraphSpec) -> None:
    with pytest.raises(UsageError, match=r"device: got 'tpu'; expected one of cpu, cuda, tensorrt, openvino, coreml"):
        opened(pristine_bundle / "decode.onnx", spec, LoadOptions(device="tpu"))


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_a_missing_device_is_never_replaced_by_another(pristine_bundle: Path, spec: GraphSpec) -> None:
    message = r"onnxruntime on cuda: got .*CPUExecutionProvider.*; expected CUDAExecutionProvider; .*onnxruntime-gpu"
    with pytest.raises(RuntimeUnavailable, match=message):
        opened(pristine_bundle / "decode.onnx", spec, LoadOptions(device="cuda"))


def test_a_closed_session_does_not_run(pristine_bundle: Path, spec: GraphSpec) -> None:
    session = opened(pristine_bundle / "decode.onnx", spec)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="got a run after close; expected an open session"):
        session.run({"indices": np.zeros((1, 2, 3), np.int32)})


def test_a_provider_that_leaves_its_place_to_the_cpu_is_not_accepted(
    pristine_bundle: Path, spec: GraphSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU wheel lists CUDA on any machine, and its sessions fall back to the CPU with a warning at most."""
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    message = r"onnxruntime on cuda: got CPUExecutionProvider; expected CUDAExecutionProvider first; install"
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(RuntimeUnavailable, match=message):
        opened(pristine_bundle / "decode.onnx", spec, LoadOptions(device="cuda"))


def test_the_probe_runs_a_graph() -> None:
    assert OnnxRuntimeSession.probe().startswith("ran on cpu; providers: cpu")
