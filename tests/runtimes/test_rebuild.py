"""Real engines of TensorRT-RTX, rebuilt without a GPU."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx
from fake_gpu import FakeCudart
from tiny_models import random_images

from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.runtimes.backends.tensorrt import cuda
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, EngineMismatch, RuntimeUnavailable, StorageError, UsageError
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.rebuild import REASON, rebuild
from vqrae.runtimes.tokenizer import load

VERSION = tensorrt_rtx.__version__
WITHOUT_GPU = pytest.mark.skipif(bool(cuda.all_gpus()), reason="there is an NVIDIA GPU")


@pytest.fixture(scope="module")
def built(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 bundle for TensorRT-RTX; not to be changed."""
    return Path(builder.build(target("tensorrt-rtx"), tmp_path_factory.mktemp("bundles")).bundle)


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.fixture
def edit(bundle: Path) -> Callable[[Callable[[Any], object]], None]:
    """Changes the manifest, as if another machine had written it."""

    def edited(change: Callable[[Any], object]) -> None:
        path = bundle / "manifest.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edited


def from_an_older_version(values: Any) -> None:
    values["runtime"]["engine"]["version"] = "1.6.0"
    values["runtime"]["built_with"]["tensorrt-rtx"] = "1.6.0"


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_rebuilt_bundle_is_whole_and_says_what_it_is(bundle: Path, edit: Callable[..., None]) -> None:
    before = Bundle.open(bundle).manifest
    edit(from_an_older_version)
    (bundle / "encode.engine").write_bytes(old := b"an engine of that version")
    edit(lambda values: relist(values, "encode.engine", old))
    rebuilt = rebuild(bundle).manifest
    assert (bundle / "encode.engine").stat().st_size > 50_000
    assert rebuilt == Bundle.open(bundle).manifest
    assert (rebuilt.graphs, rebuilt.precision, rebuilt.checkpoint) == (
        before.graphs,
        before.precision,
        before.checkpoint,
    )
    assert rebuilt.runtime == before.runtime
    assert (rebuilt.evidence.executed, rebuilt.evidence.reason, rebuilt.evidence.gate) == (
        False,
        REASON,
        "not-executed",
    )
    assert rebuilt.evidence.source == before.evidence.source
    unchanged = {entry.path for entry in rebuilt.files} - {"encode.engine", "decode.engine"}
    assert hashes(rebuilt, unchanged) == hashes(before, unchanged)
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def relist(values: Any, name: str, content: bytes) -> None:
    (entry,) = (entry for entry in values["files"] if entry["path"] == name)
    entry["size"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()


def hashes(manifest: Manifest, paths: set[str]) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path in paths}


def test_this_machine_s_gpu_is_added(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPUs are stand-ins; the engine is real, and left unloaded, which needs a driver."""
    monkeypatch.setattr(cuda, "cudart", FakeCudart("9.0", "12.1"))
    monkeypatch.setattr("vqrae.runtimes.backends.tensorrt.builder.EngineBuilder._inspected", lambda *_: None)
    runtime = rebuild(bundle, "cuda:1").manifest.runtime
    assert runtime.engine is not None
    assert runtime.engine.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert runtime.options["compute_capabilities"] == "8.0,8.6,8.9,12.0,12.1"
    assert runtime.hardware == "compute capability 8.0, 8.6, 8.9, 12.0, 12.1"
    with pytest.raises(
        RuntimeUnavailable, match=r"on cuda:0 \(Fake 0\): got compute capability 9\.0; expected 7\.5 or"
    ):
        rebuild(bundle)


def test_a_build_that_fails_leaves_the_old_bundle(bundle: Path, edit: Callable[..., None]) -> None:
    """It really fails: Turing has no FP32 matrix products in TensorRT-RTX."""
    edit(lambda values: values["runtime"]["options"].update(compute_capabilities="7.5"))
    before = digests(bundle)
    with pytest.raises(RuntimeUnavailable, match=r"got TensorRT-RTX fails to build it \(.*Turing"):
        rebuild(bundle)
    assert digests(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_whatever_interrupts_it_leaves_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr("vqrae.runtimes.rebuild.write_manifest", interrupted)
    before = digests(bundle)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        rebuild(bundle)
    assert digests(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_damaged_source_is_refused(bundle: Path) -> None:
    content = bytearray((bundle / "decode.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "decode.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decode\.onnx: got SHA-256 "):
        rebuild(bundle)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"decode\.engine: got \d+ bytes; expected \d+ bytes; export it again"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), r"decode\.engine: got SHA-256 .*; export it again"),
    ],
)
def test_a_damaged_engine_is_refused_before_the_framework_sees_it(
    bundle: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    engine = bundle / "decode.engine"
    engine.write_bytes(damage(engine.read_bytes()))
    for rebuilding in (False, True):
        with pytest.raises(BundleError, match=message):
            load(bundle, rebuild=rebuilding).session("decode")


def test_a_bundle_without_onnx(bundle: Path, edit: Callable[..., None]) -> None:
    edit(lambda values: values["graphs"]["encode"].update(source=None))
    with pytest.raises(
        BundleError, match=r"rebuild: got no ONNX graph for encode; expected one for each engine; export"
    ):
        rebuild(bundle)


def test_a_bundle_without_engines(exported: Path) -> None:
    with pytest.raises(UsageError, match=r"rebuild: got a bundle for onnxruntime; expected one that holds engines"):
        rebuild(exported)


def test_a_bundle_whose_options_are_not_known(bundle: Path, edit: Callable[..., None]) -> None:
    edit(lambda values: values["runtime"].update(options={"workspace_mb": 1, "plugins": "evil.so"}))
    with pytest.raises(BundleError, match=r"bundle options: got Extra inputs are not permitted; expected the options"):
        rebuild(bundle)


def test_loading_explains_a_mismatch(bundle: Path, edit: Callable[..., None]) -> None:
    edit(from_an_older_version)
    message = (
        rf"encode\.engine: got TensorRT-RTX {VERSION} here; expected 1\.6\.0, which built it; rebuild it here: `vqrae"
    )
    with load(bundle) as tokenizer, pytest.raises(EngineMismatch, match=message):
        tokenizer.encode(random_images(1).numpy())


@WITHOUT_GPU
def test_loading_rebuilds_where_it_is_asked_to(bundle: Path, edit: Callable[..., None]) -> None:
    edit(from_an_older_version)
    with load(bundle, rebuild=True) as tokenizer:
        assert tokenizer.manifest.runtime.built_with["tensorrt-rtx"] == VERSION
        assert tokenizer.manifest == Bundle.open(bundle).manifest
        with pytest.raises(RuntimeUnavailable, match="got no NVIDIA driver"):
            tokenizer.encode(random_images(1).numpy())


@WITHOUT_GPU
def test_what_fits_is_not_rebuilt(bundle: Path) -> None:
    before = digests(bundle)
    with pytest.raises(RuntimeUnavailable, match="got no NVIDIA driver"):
        load(bundle, rebuild=True)
    assert digests(bundle) == before


def test_a_rebuild_needs_neither_torch_nor_onnx(bundle: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "from vqrae.runtimes.rebuild import rebuild\n"
        "print(rebuild(sys.argv[1]).manifest.evidence.reason)"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{REASON}\n", "")


def test_another_gpu_asks_for_a_rebuild(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudart", FakeCudart("7.5"))
    message = (
        r"got compute capability 7\.5 of Fake 0; expected 8\.0 or 8\.6 or 8\.9 or 12\.0, which it was built for; re"
    )
    with load(bundle) as tokenizer, pytest.raises(EngineMismatch, match=message):
        tokenizer.decode([[0, 1, 2, 3]] * 4)
