"""Core ML sessions, on the machine that the tests run on: what they refuse, and how bytes get in and out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import converted, fp16_bundle, hand_written, mb, opened
from numpy.typing import NDArray
from PIL import Image
from tiny_models import random_images

from vqrae.export.build import BundleBuilder
from vqrae.runtimes.backends import coreml
from vqrae.runtimes.backends.coreml import CoreMLSession
from vqrae.runtimes.backends.coreml_evaluator import Evaluator
from vqrae.runtimes.backends.coreml_spec import ITEMS_FILE, SPEC_FILE, WEIGHTS_FOLDER, read_spec
from vqrae.runtimes.backends.coreml_tools import ct
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import BatchLimits, GraphSpec, TensorSpec
from vqrae.runtimes.tokenizer import load

ON_LINUX = pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is there")


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Path, GraphSpec]:
    """The package of `decode`, to be broken."""
    path, graph = converted("decode")
    return Path(shutil.copytree(path, tmp_path / path.name)), graph


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda items: items.update(rootModelIdentifier="another"), "no root model"),
        (lambda items: items.pop("itemInfoEntries"), "no root model"),
        (lambda items: items["itemInfoEntries"].update(x=3), "an item at None"),
        (
            lambda items: items["itemInfoEntries"].update(x={"path": "../../evil.mlmodel"}),
            "an item at '../../evil.mlmodel'",
        ),
        (
            lambda items: items["itemInfoEntries"][items["rootModelIdentifier"]].update(
                path="com.apple.CoreML/weights"
            ),
            "an item at 'com.apple.CoreML/weights'",
        ),
    ],
)
def test_a_packages_own_list_must_name_the_files_that_are_read(
    change: Callable[[dict[str, Any]], object], got: str, copied: tuple[Path, GraphSpec]
) -> None:
    """Core ML follows it, on a Mac, to whatever it names (fault 43)."""
    path, graph = copied
    items = json.loads((path / ITEMS_FILE).read_text())
    change(items)
    (path / ITEMS_FILE).write_text(json.dumps(items))
    with pytest.raises(BundleError, match=rf"Manifest\.json: got {re.escape(got)}; expected "):
        opened(path, graph)
    (path / ITEMS_FILE).write_text("{")
    with pytest.raises(BundleError, match=r"Manifest\.json: got invalid JSON"):
        opened(path, graph)


def test_a_package_of_a_later_specification_is_refused(copied: tuple[Path, GraphSpec]) -> None:
    path, graph = copied
    spec = read_spec(path)
    spec.specificationVersion = 99
    (path / SPEC_FILE).write_bytes(spec.SerializeToString())
    with pytest.raises(BundleError, match=r"decode\.mlpackage: got coremltools .* refuses it") as caught:
        opened(path, graph)
    assert "\n" not in str(caught.value)


@ON_LINUX
def test_a_session_runs_and_says_what_ran() -> None:
    with opened(*converted("decode")) as session:
        images = session.run({"indices": np.arange(32, dtype=np.int32).reshape(2, 4, 4)})["images"]
        execution = session.execution
    assert (images.dtype, images.shape) == (np.uint8, (2, 32, 32, 3))
    assert (execution.runtime, execution.runtime_version) == ("coreml", ct.__version__)
    assert (execution.device, execution.means, execution.precision) == ("evaluator", "evaluator", "float32 ×13")


def test_the_probe_runs() -> None:
    assert CoreMLSession.probe().startswith("ran on ")


@ON_LINUX
def test_a_device_of_a_mac_is_never_replaced_by_another() -> None:
    message = r"^coreml on ne: got the system linux; expected macOS; run on a Mac, or choose --device evaluator"
    with pytest.raises(RuntimeUnavailable, match=message):
        opened(*converted("decode"), LoadOptions(device="ne"))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^device: got 'npu'; expected one of all, cpu, gpu, ne, evaluator"):
        opened(*converted("decode"), LoadOptions(device="npu"))


def test_a_closed_session_does_not_run() -> None:
    session = opened(*converted("decode"))
    session.close()
    session.close()
    with pytest.raises(UsageError, match="got a run after close; expected an open session"):
        session.run({"indices": np.zeros((1, 4, 4), np.int32)})


def test_a_package_that_differs_from_the_manifest_is_refused() -> None:
    path, graph = converted("decode")
    wide = graph.outputs[0].model_copy(update={"shape": ("batch", 32, 64, 3)})
    message = (
        r"decode\.mlpackage outputs: got images uint8 \(batch, 32, 32, 3\); "
        r"expected images uint8 \(batch, 32, 64, 3\), as the manifest says; export it again$"
    )
    with pytest.raises(BundleError, match=message):
        opened(path, graph.model_copy(update={"outputs": (wide,)}))
    with pytest.raises(BundleError, match=r"outputs: got images float32 .*; expected images uint8"):
        opened(path, graph.model_copy(update={"carriers": {"images": "image"}}))
    with pytest.raises(BundleError, match=r"batch: got 1 to 32; expected 1 to 64, as the manifest says"):
        opened(path, graph.model_copy(update={"batch_limits": BatchLimits(most=64)}))


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    _, graph = converted("decode")
    with pytest.raises(BundleError, match=r"nothing\.mlpackage.*: got No such file"):
        opened(tmp_path / "nothing.mlpackage", graph)
    (tmp_path / "file.mlpackage").write_bytes(b"not a package")
    with pytest.raises(BundleError, match=r"file\.mlpackage.*: got Not a directory"):
        opened(tmp_path / "file.mlpackage", graph)


@pytest.mark.parametrize("content", [b"not a model", b""])
def test_a_specification_that_is_none_is_refused(copied: tuple[Path, GraphSpec], content: bytes) -> None:
    (copied[0] / SPEC_FILE).write_bytes(content)
    with pytest.raises(BundleError, match=r"^[^\n]*decode\.mlpackage: got [^\n]*$"):
        opened(*copied)


def test_a_truncated_specification_is_refused(copied: tuple[Path, GraphSpec]) -> None:
    content = (copied[0] / SPEC_FILE).read_bytes()
    (copied[0] / SPEC_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"^[^\n]*decode\.mlpackage: got coremltools [^\n]* refuses it [^\n]*$"):
        opened(*copied)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_weights_are_refused(copied: tuple[Path, GraphSpec], size: int) -> None:
    weights = copied[0] / WEIGHTS_FOLDER / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(BundleError, match=r"^[^\n]*decode\.mlpackage: got coremltools [^\n]* refuses it [^\n]*$"):
        opened(*copied, LoadOptions(device="evaluator"))


def test_a_flipped_byte_is_seen_before_anything_is_loaded(builder: BundleBuilder, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(fp16_bundle(builder), tmp_path / "bundle"))
    weights = bundle / "encode.mlpackage" / WEIGHTS_FOLDER / "weight.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    message = r"weight\.bin: got SHA-256 .*; expected .*; export it again$"
    with load(bundle) as tokenizer, pytest.raises(BundleError, match=message):
        tokenizer.session("encode")


def test_pixels_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    path = hand_written(tmp_path / "decode.mlpackage", lambda x: mb.mul(x=x, y=2.0, name="images"), 1, 1, 1, 3)
    tensors = (TensorSpec(name="x", dtype="float32", shape=(1, 1, 1, 3)),)
    images = TensorSpec(name="images", dtype="uint8", shape=(1, 1, 1, 3))
    graph = GraphSpec(file=path.name, inputs=tensors, outputs=(images,), carriers={"images": "float32"})
    with opened(path, graph) as session:
        feed = np.array([0, 3.5, 127.5], np.float32).reshape(1, 1, 1, 3)
        np.testing.assert_array_equal(session.run({"x": feed})["images"].ravel(), [0, 7, 255])
        for wrong in (128, -1, 0.25, np.nan):
            with pytest.raises(RuntimeUnavailable, match=r"got pixels from .*; expected whole numbers from 0 to 255"):
                session.run({"x": np.full((1, 1, 1, 3), wrong, np.float32)})


class StandInModel:
    """Takes and gives what Core ML does, pictures above all; the evaluator computes. Core ML itself needs a Mac."""

    _framework_error = None
    __proxy__ = "anything"

    def __init__(self, path: str, compute_units: Any) -> None:
        self.units = compute_units
        self.evaluator = Evaluator(Path(path), read_spec(Path(path)))

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: _array(value) if isinstance(value, Image.Image) else value for name, value in feeds.items()}
        outputs = self.evaluator.run(arrays)
        if "images" in outputs:
            outputs["images"] = Image.fromarray(outputs["images"][0].transpose(1, 2, 0).astype(np.uint8))
        return outputs


def _array(picture: Image.Image) -> NDArray[np.float32]:
    assert (picture.mode, picture.size) == ("RGB", (32, 32))
    return np.asarray(picture, np.float32).transpose(2, 0, 1)[None]


def test_on_a_mac_pictures_go_in_and_out(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [converted(name, batch="1", inputs="image") for name in ("encode", "decode")]
    here = [opened(*package, LoadOptions(device="evaluator")) for package in packages]
    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", StandInModel)
    there = [opened(*package, LoadOptions(device="gpu")) for package in packages]
    images = random_images(1).numpy()
    indices = [encode.run({"images": images})["indices"] for encode, _ in (here, there)]
    np.testing.assert_array_equal(*indices)
    pictures = [decode.run({"indices": indices[0]})["images"] for _, decode in (here, there)]
    np.testing.assert_array_equal(*pictures)
    assert (there[0].execution.device, there[0].execution.means) == ("gpu", "runtime")


def test_what_core_ml_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    monkeypatch.setattr(StandInModel, "__proxy__", None)
    monkeypatch.setattr(ct.models, "MLModel", StandInModel)
    with pytest.raises(BundleError, match=r"decode\.mlpackage: got Core ML refuses it \(it is for a later system\)"):
        opened(*converted("decode"))


def test_importing_prints_nothing_and_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from vqrae.runtimes.registry import session_class\n"
        "print(session_class('coreml').probe())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ran on ")
