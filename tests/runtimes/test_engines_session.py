"""Engines of TensorRT-RTX. What needs a driver is tested on `fake_gpu` here, and on a GPU where there is one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import MOST, PLAN, RUNTIME, SPEC, TIES, FakeCudart, FakeTrt, fake_session

from vqrae.runtimes.backends.tensorrt import cuda
from vqrae.runtimes.backends.tensorrt.session import EngineSession
from vqrae.runtimes.backends.tensorrt.tensorrt_rtx import TensorRTRTXSession
from vqrae.runtimes.backends.tensorrt.ties import check_hardware, check_library
from vqrae.runtimes.errors import BundleError, EngineMismatch, RuntimeUnavailable, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import EngineTies, GraphSpec, RuntimeInfo
from vqrae.runtimes.sealed import Sealed

WITHOUT_GPU = pytest.mark.skipif(bool(cuda.all_gpus()), reason="there is an NVIDIA GPU")
WITH_GPU = pytest.mark.skipif(not cuda.all_gpus(), reason="needs an NVIDIA GPU and driver")
SOURCE = SPEC.model_copy(update={"source": "graph.onnx"})
PIXELS = np.arange(MOST * 3, dtype=np.uint8).reshape(MOST, 3)


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    """Two GPUs."""
    fake = FakeCudart("8.6", "8.6")
    monkeypatch.setattr(cuda, "cudart", fake)
    return fake


@pytest.fixture
def trt(cudart: FakeCudart) -> FakeTrt:
    return FakeTrt(cudart)


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    (tmp_path / "graph.engine").write_bytes(PLAN)
    return tmp_path / "graph.engine"


@pytest.fixture
def opened(trt: FakeTrt, engine_file: Path) -> Callable[..., EngineSession]:
    def open_session(spec: GraphSpec = SPEC, runtime: RuntimeInfo = RUNTIME, **options: Any) -> EngineSession:
        return fake_session(trt).open(Sealed.in_place(engine_file.parent), spec, LoadOptions(**options), runtime)

    return open_session


def tied(**changes: Any) -> EngineTies:
    return TIES.model_copy(update=changes)


def check(ties: EngineTies, graph: GraphSpec = SOURCE, version: str = "1.7.1", system: str = "linux-x86_64") -> None:
    check_library(Path("graph.engine"), graph, ties, title="TensorRT-RTX", version=version, system=system)


@pytest.mark.parametrize(
    ("ties", "version"),
    [
        (tied(version="1.7.1"), "1.7.1"),
        (tied(version="1.7.1", platform="linux-x86_64"), "1.7.1"),
        (tied(version="1.5.9", any_newer_version=True), "1.7.1"),
        (tied(version="10.9.0", any_newer_version=True), "10.16.0"),
    ],
)
def test_what_fits_is_not_refused(ties: EngineTies, version: str) -> None:
    check(ties, version=version)


@pytest.mark.parametrize(
    ("ties", "version", "message"),
    [
        (tied(version="1.6.0"), "1.7.1", "got TensorRT-RTX 1.7.1 here; expected 1.6.0, which built it; rebuild"),
        (tied(version="1.7.1"), "1.7.0", "got TensorRT-RTX 1.7.0 here; expected 1.7.1, which built it; rebuild"),
        (tied(version="1.7.1", any_newer_version=True), "1.7.0", "expected 1.7.1, which built it, or a later one;"),
        (tied(version="1.7.1", any_newer_version=True), "2.0.0", "expected 1.7.1, which built it, or a later one;"),
        (
            tied(version="1.7.1", platform="windows-amd64"),
            "1.7.1",
            "got linux-x86_64 here; expected windows-amd64, which it was built on; rebuild it here: `vqrae selftest",
        ),
    ],
)
def test_another_library_or_system_is_explained(ties: EngineTies, version: str, message: str) -> None:
    with pytest.raises(EngineMismatch, match=rf"^graph\.engine: .*{message}") as caught:
        check(ties, version=version)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("ties", "here", "message"),
    [
        (tied(compute_capabilities=("8.0", "8.6")), "8.6", None),
        (tied(compute_capabilities=("8.0",), newer_hardware=True), "12.0", None),
        (tied(compute_capabilities=("8.0", "8.6")), "8.9", "expected 8.0 or 8.6, which it was built for; rebuild"),
        (tied(compute_capabilities=("8.0",), newer_hardware=True), "7.5", "expected 8.0 or higher, which it was"),
        (
            tied(compute_capabilities=("12.0", "8.9"), newer_hardware=True),
            "8.6",
            "expected 8.9 or higher, which it was",
        ),
    ],
)
def test_another_gpu_is_explained(ties: EngineTies, here: str, message: str | None) -> None:
    def check_gpu() -> None:
        check_hardware(Path("graph.engine"), SOURCE, ties, gpu="Some GPU", compute_capability=here)

    if message is None:
        check_gpu()
        return
    with pytest.raises(EngineMismatch, match=rf"got compute capability {here} of Some GPU; {message}"):
        check_gpu()


def test_without_onnx_a_mismatch_sends_to_the_export() -> None:
    with pytest.raises(EngineMismatch, match=r"; export it again .*: the bundle holds no ONNX to rebuild it from$"):
        check(tied(version="1.6.0"), graph=SPEC)


@WITHOUT_GPU
def test_without_a_driver_it_says_so(engine_file: Path) -> None:
    message = r"^tensorrt-rtx on cuda: got no NVIDIA driver; expected an NVIDIA GPU and its driver; run it on"
    with pytest.raises(RuntimeUnavailable, match=message):
        TensorRTRTXSession.open(Sealed.in_place(engine_file.parent), SPEC, LoadOptions(), RUNTIME)


@WITHOUT_GPU
def test_without_a_driver_the_probe_builds_and_says_that_it_cannot_run(capfd: pytest.CaptureFixture[str]) -> None:
    message = r"^tensorrt-rtx compiles engines, cannot run them: got no NVIDIA driver; expected an NVIDIA GPU and its"
    with pytest.raises(RuntimeUnavailable, match=message):
        TensorRTRTXSession.probe()
    assert capfd.readouterr() == ("", "")


@WITH_GPU
def test_the_probe_runs_an_engine() -> None:
    assert TensorRTRTXSession.probe().startswith("ran on cuda; GPUs: cuda:0")


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "gpu", "cuda:-1"])
def test_an_unknown_device(engine_file: Path, device: str) -> None:
    with pytest.raises(UsageError, match=rf"device: got '{device}'; expected cuda, or one GPU of several"):
        TensorRTRTXSession.open(Sealed.in_place(engine_file.parent), SPEC, LoadOptions(device=device), RUNTIME)


def test_a_mismatch_is_found_before_the_driver_is_asked(engine_file: Path) -> None:
    runtime = RUNTIME.model_copy(update={"engine": tied(version="1.6.0")})
    with pytest.raises(EngineMismatch, match=r"graph\.engine: got TensorRT-RTX 1\..* here; expected 1\.6\.0"):
        TensorRTRTXSession.open(Sealed.in_place(engine_file.parent), SPEC, LoadOptions(), runtime)


def test_a_manifest_without_ties(engine_file: Path) -> None:
    with pytest.raises(BundleError, match=r"graph\.engine ties: got none in the manifest; .*export it again$"):
        TensorRTRTXSession.open(
            Sealed.in_place(engine_file.parent), SPEC, LoadOptions(), RuntimeInfo(name="tensorrt-rtx", built_with={})
        )


def test_outputs_have_the_size_of_the_batch(opened: Callable[..., EngineSession]) -> None:
    with opened() as session:
        for batch in (2, MOST, 1):
            outputs = session.run({"pixels": PIXELS[:batch]})
            np.testing.assert_array_equal(outputs["sums"], PIXELS[:batch].sum(1))
            np.testing.assert_array_equal(outputs["halves"], PIXELS[:batch] / 2)
            assert (outputs["sums"].dtype, outputs["halves"].dtype) == (np.int32, np.float32)
        execution = session.execution
    assert (execution.device, execution.precision) == ("cuda:0 (Fake 0)", "HALF ×1")


def test_no_later_run_writes_to_what_was_returned(opened: Callable[..., EngineSession]) -> None:
    with opened() as session:
        first = session.run({"pixels": PIXELS})
        session.run({"pixels": PIXELS[::-1].copy()})
    np.testing.assert_array_equal(first["sums"], PIXELS.sum(1))


def test_memory_on_the_gpu_is_used_again_and_grows_with_the_batch(
    opened: Callable[..., EngineSession], cudart: FakeCudart
) -> None:
    with opened() as session:
        for batch, calls in ((2, 3), (2, 3), (1, 3), (MOST, 6), (MOST, 6)):
            session.run({"pixels": PIXELS[:batch]})
            assert cudart.calls.count("cudaMalloc") == calls
        assert len(cudart.memory) == 3, "what was too small is freed"


def test_closing_frees_everything(opened: Callable[..., EngineSession], cudart: FakeCudart, trt: FakeTrt) -> None:
    session = opened(streams=3)
    assert (trt.live_contexts(), len(cudart.queues)) == (3, 3)
    session.run({"pixels": PIXELS})
    session.close()
    session.close()
    gc.collect()
    assert (cudart.memory, cudart.queues, len(trt.engines)) == ({}, {}, 0)
    with pytest.raises(UsageError, match="tensorrt-rtx session: got a run after close; expected an open session"):
        session.run({"pixels": PIXELS})
    assert session.execution.precision == "HALF ×1"


def test_as_many_calls_go_on_at_once_as_there_are_streams(
    opened: Callable[..., EngineSession], cudart: FakeCudart
) -> None:
    """Each call waits for the other before its work is done: with one lane for both it would never end."""
    together = threading.Barrier(2, timeout=10)
    cudart.before_work = together.wait
    with opened(streams=2) as session, ThreadPoolExecutor(2) as pool:
        feeds = [np.full((1, 3), value, np.uint8) for value in range(20)]
        sums = [outputs["sums"] for outputs in pool.map(lambda feed: session.run({"pixels": feed}), feeds)]
    np.testing.assert_array_equal(np.concatenate(sums), np.arange(20) * 3)


def test_more_threads_than_streams_take_turns(opened: Callable[..., EngineSession]) -> None:
    feeds = [np.full((1, 3), value, np.uint8) for value in range(50)]
    with opened(streams=2) as session, ThreadPoolExecutor(8) as pool:
        sums = [outputs["sums"] for outputs in pool.map(lambda feed: session.run({"pixels": feed}), feeds)]
    np.testing.assert_array_equal(np.concatenate(sums), np.arange(50) * 3)


def test_closing_waits_for_a_call_that_goes_on(opened: Callable[..., EngineSession], cudart: FakeCudart) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def announced() -> None:
        begun.set()
        may_end.wait(10)

    cudart.before_work = announced
    session = opened()
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(session.run, {"pixels": PIXELS})
        assert begun.wait(10)
        waiting = pool.submit(session.run, {"pixels": PIXELS})
        closing = pool.submit(session.close)
        may_end.set()
        np.testing.assert_array_equal(running.result(10)["sums"], PIXELS.sum(1))
        closing.result(10)
        if waiting.exception(10) is not None:  # it came before the closing, or after it
            assert isinstance(waiting.exception(), UsageError)
    assert (cudart.memory, cudart.queues) == ({}, {})


def test_a_batch_beyond_the_profile_fails_and_harms_nothing(opened: Callable[..., EngineSession]) -> None:
    with opened() as session:
        with pytest.raises(RuntimeUnavailable, match=r"^tensorrt-rtx: got a failed run \(9 is not within \[1, 4\]\)$"):
            session.run({"pixels": np.zeros((9, 3), np.uint8)})
        np.testing.assert_array_equal(session.run({"pixels": PIXELS})["sums"], PIXELS.sum(1))


def test_too_little_memory_on_the_gpu_is_one_line(opened: Callable[..., EngineSession], cudart: FakeCudart) -> None:
    with opened() as session:
        cudart.most_memory = 12
        with pytest.raises(RuntimeUnavailable, match=r"^cuda: got a failed cudaMalloc \(out of memory\)$"):
            session.run({"pixels": PIXELS})
        assert not any(cudart.queues.values()), "nothing is left queued that reads the caller's arrays"
        cudart.most_memory = 2**20
        np.testing.assert_array_equal(session.run({"pixels": PIXELS})["sums"], PIXELS.sum(1))
    assert cudart.memory == {}


def test_a_lane_goes_on_after_a_larger_batch_found_no_memory(
    opened: Callable[..., EngineSession], cudart: FakeCudart
) -> None:
    with opened() as session:
        session.run({"pixels": PIXELS[:2]})
        cudart.most_memory = sum(map(len, cudart.memory.values()))
        with pytest.raises(RuntimeUnavailable, match="out of memory"):
            session.run({"pixels": PIXELS})
        for batch in (1, 2):
            np.testing.assert_array_equal(session.run({"pixels": PIXELS[:batch]})["sums"], PIXELS[:batch].sum(1))
    assert cudart.memory == {}


def test_lanes_are_freed_when_a_later_one_fails(
    opened: Callable[..., EngineSession], cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = cudart.cudaStreamCreateWithFlags

    def only_two(flags: int) -> tuple[Any, int | None]:
        return create(flags) if len(cudart.queues) < 2 else (cudart.cudaError_t.cudaErrorMemoryAllocation, None)

    monkeypatch.setattr(cudart, "cudaStreamCreateWithFlags", only_two)
    with pytest.raises(RuntimeUnavailable, match=r"out of memory"):
        opened(streams=3)
    assert cudart.queues == {}


def test_a_plan_that_is_refused(opened: Callable[..., EngineSession], engine_file: Path) -> None:
    engine_file.write_bytes(PLAN[:-1])
    message = r"graph\.engine: got TensorRT-RTX 1\..* refuses it \(the magic tag does not match\); expected a graph"
    with pytest.raises(BundleError, match=message):
        opened()


def test_another_signature_than_the_manifest_s(opened: Callable[..., EngineSession]) -> None:
    wide = SPEC.outputs[0].model_copy(update={"shape": ("batch", 2)})
    message = r"outputs: got halves float32 \(batch, 3\), sums int32 \(batch\); expected .*, sums int32 \(batch, 2\)"
    with pytest.raises(BundleError, match=message):
        opened(SPEC.model_copy(update={"outputs": (wide, SPEC.outputs[1])}))


def test_the_second_gpu(opened: Callable[..., EngineSession], cudart: FakeCudart) -> None:
    """From threads that never chose one."""
    with opened(device="cuda:1") as session:
        assert session.execution.device == "cuda:1 (Fake 1)"
        with ThreadPoolExecutor(1) as pool:
            outputs = pool.submit(session.run, {"pixels": PIXELS}).result()
        np.testing.assert_array_equal(outputs["sums"], PIXELS.sum(1))
        assert {cudart.home[address] for address in cudart.memory} == {1}
    with pytest.raises(RuntimeUnavailable, match=r"on cuda:2: got cuda:0 \(Fake 0\), .*; expected a GPU number 2;"):
        opened(device="cuda:2")


def test_another_gpu_is_refused_before_the_engine_is_loaded(
    opened: Callable[..., EngineSession], cudart: FakeCudart, trt: FakeTrt
) -> None:
    cudart.capabilities = ("7.5",)
    with pytest.raises(EngineMismatch, match=r"got compute capability 7\.5 of Fake 0; expected 8\.6, which it was"):
        opened()
    assert len(trt.engines) == 0


def test_kernels_are_kept_between_processes(opened: Callable[..., EngineSession], tmp_path: Path, trt: FakeTrt) -> None:
    cache = tmp_path / "cache"
    with opened(cache=cache) as session:
        assert session._engine is not None
        native = session._engine._kernels._native  # type: ignore[union-attr]
        native.kernels = b"compiled for a batch of 1"
    (kept,) = cache.iterdir()
    assert kept.read_bytes().endswith(b"compiled for a batch of 1")
    before = kept.stat().st_mtime_ns
    with opened(cache=cache) as session:
        assert session._engine._kernels._native.kernels == b"compiled for a batch of 1"  # type: ignore[union-attr]
    assert kept.stat().st_mtime_ns == before, "what did not change is not written again"
