"""Anyone's engine as a row: up to the driver on TensorRT-RTX itself, beyond it on `fake_gpu`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vqrae.benchmarks.lineup import RTX_MAGIC, foreign_candidate
from vqrae.runtimes.errors import DeviceMissing, RuntimeUnavailable

if find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt-rtx is not installed", allow_module_level=True)

from fake_gpu import PLAN, FakeCudart, FakeEngine, FakeTrt  # imports tensorrt_rtx

from vqrae.benchmarks.candidates import foreign_engine
from vqrae.benchmarks.candidates.foreign_engine import ForeignEngine
from vqrae.runtimes.backends.tensorrt import cuda
from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.session import _doubling_engine
from vqrae.runtimes.backends.tensorrt.tensorrt_rtx import API
from vqrae.runtimes.errors import BundleError, UsageError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> EngineApi:
    """One GPU, which runs an engine that sums and halves bytes."""
    cudart = FakeCudart("8.6")
    monkeypatch.setattr(cuda, "cudart", cudart)
    return EngineApi(name="tensorrt-rtx", title="TensorRT-RTX", trt=FakeTrt(cudart), portable=True)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "theirs.engine").write_bytes(PLAN)
    return tmp_path / "theirs.engine"


@pytest.mark.skipif(bool(cuda.all_gpus()), reason="there is an NVIDIA GPU")
def test_without_a_driver_the_row_says_what_is_missing(tmp_path: Path) -> None:
    """The engine is TensorRT-RTX's own, and known by its first bytes."""
    path = tmp_path / "theirs.plan"
    path.write_bytes(memoryview(_doubling_engine(API)))
    assert path.read_bytes().startswith(RTX_MAGIC)
    with pytest.raises(DeviceMissing, match=r"^tensorrt-rtx on cuda: got no NVIDIA driver; expected an NVIDIA GPU"):
        foreign_candidate(path, threads=1, size=None)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_another_engine_is_taken_for_tensorrt_s(plan: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"^tensorrt is not installed"):
        foreign_candidate(plan, threads=1, size=None)


def test_an_image_s_engine_runs(fake: EngineApi, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake one computes on three bytes of each image, whatever axes it says they have."""
    monkeypatch.setattr(foreign_engine, "EngineLane", FlatLane)
    flat = FakeEngine.get_tensor_shape
    monkeypatch.setattr(
        FakeEngine, "get_tensor_shape", lambda self, name: (-1, 3, 1, 1) if name == "pixels" else flat(self, name)
    )
    with ForeignEngine(plan, fake, threads=1, size=None, trusted=False) as row:
        outputs = row.call("encode", 2)()
        subject = row.subject("encode")
    assert isinstance(outputs, dict)
    assert {name: (array.dtype, array.shape) for name, array in outputs.items()} == {
        "sums": (np.dtype("int32"), (2,)),
        "halves": (np.dtype("float32"), (2, 3)),
    }
    assert (subject.device, subject.runtime, subject.kind) == ("cuda:0 (Fake 0)", "tensorrt-rtx", "foreign")
    assert subject.size_mb == len(PLAN) / 1e6
    assert not row.supports("decode", 1)


def test_what_is_no_image_s_engine(fake: EngineApi, plan: Path) -> None:
    with pytest.raises(UsageError, match=r"theirs\.engine input: got axes \(None, 3\); expected an image"):
        ForeignEngine(plan, fake, threads=1, size=None, trusted=False)


def test_what_the_framework_refuses(fake: EngineApi, plan: Path) -> None:
    plan.write_bytes(b"other")
    with pytest.raises(BundleError, match=r"TensorRT-RTX .* refuses it \(the magic tag does not match\)"):
        ForeignEngine(plan, fake, threads=1, size=None, trusted=False)


class FlatLane(foreign_engine.EngineLane):
    """Hands the fake engine images as rows of three bytes."""

    def run(self, feeds):  # type: ignore[no-untyped-def] # as the base class's
        return super().run({name: array.reshape(len(array), 3) for name, array in feeds.items()})
