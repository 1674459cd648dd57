"""Engines of TensorRT and TensorRT-RTX, on NVIDIA's GPUs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.cuda import DEFAULT_DEVICE, Gpu, all_gpus, gpu_named, why_no_gpu
from vqrae.runtimes.backends.tensorrt.engine import LoadedEngine, load_engine
from vqrae.runtimes.backends.tensorrt.lane import EngineLane
from vqrae.runtimes.backends.tensorrt.ties import check_hardware, check_library, this_platform
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import EngineTies, GraphSpec, RuntimeInfo, TensorSpec
from vqrae.runtimes.pool import Pool
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.session import Execution, Session, check_doubled, failed_run


class EngineSession(Session):
    """An engine on a GPU, with one lane for each call that goes on at once."""

    sealings = ("memory",)  # the framework takes an engine's bytes: those that were hashed are handed over

    def __init__(self, engine: LoadedEngine, gpu: Gpu, lanes: list[EngineLane]) -> None:
        self._engine: LoadedEngine | None = engine
        self._gpu = gpu
        self._precision = engine.precision()
        self._lanes = Pool(self.api().name, lanes)

    @classmethod
    @abstractmethod
    def api(cls) -> EngineApi:
        """The framework that runs it."""

    @classmethod
    def open(cls, sealed: Sealed, graph: GraphSpec, options: LoadOptions, runtime: RuntimeInfo) -> Self:  # noqa: D102 - documented by Session
        path = sealed.subject(graph.file)
        api, ties = cls.api(), _ties(path, runtime)
        check_library(path, graph, ties, title=api.title, version=api.version, system=this_platform())
        gpu = gpu_named(api.name, options.device or DEFAULT_DEVICE)
        check_hardware(path, graph, ties, gpu=gpu.name, compute_capability=gpu.compute_capability)
        gpu.select()
        brings_code = ties.any_newer_version and not api.portable
        if brings_code and not options.trusted:
            got, remedy = "an engine that brings code of its own for the CPU", "load it with trusted=True, or --trusted"
            raise UsageError(str(path), got=got, expected="to be told that its origin is trusted", remedy=remedy)
        plan = bytes(sealed.content(graph.file))
        engine = load_engine(api, path, plan, gpu, options.cache, host_code=brings_code)
        engine.check_edges(path, graph)
        with ExitStack() as opened:
            lanes = [
                opened.enter_context(EngineLane(api, gpu, engine.context(), graph.outputs))
                for _ in range(options.streams)
            ]
            engine.keep_kernels()
            session = cls(engine, gpu, lanes)
            opened.pop_all()
        return session

    @classmethod
    def probe(cls) -> str:  # noqa: D102 - documented by Session
        api = cls.api()
        if not api.portable:
            gpu_named(api.name, DEFAULT_DEVICE)  # it cannot even build without one
        plan = _doubling_engine(api)
        gpus = all_gpus()
        if not gpus:
            subject, expected = f"{api.name} compiles engines, cannot run them", "an NVIDIA GPU and its driver"
            raise RuntimeUnavailable(subject, got=why_no_gpu(), expected=expected)
        gpus[0].select()
        try:
            engine = LoadedEngine(api, plan, gpus[0], None, host_code=False)
        except RuntimeError as error:
            raise failed_run(api.name, error) from error
        y = TensorSpec(name="y", dtype="float32", shape=(2,))
        with EngineLane(api, gpus[0], engine.context(), (y,)) as lane:
            doubled = lane.run({"x": np.array([1, 2], np.float32)})["y"]
        check_doubled(api.name, doubled)
        return "ran on cuda; GPUs: " + ", ".join(map(str, gpus))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: D102 - documented by Session
        with self._lanes.lend() as lane:
            return lane.run(feeds)

    def close(self) -> None:  # noqa: D102 - documented by Session
        lanes, engine = self._lanes.empty(), self._engine
        if engine is None or not lanes:
            return
        with ExitStack() as closing:  # in reverse; each step is taken, whichever fails
            closing.callback(setattr, self, "_engine", None)  # last: contexts refer to it
            for lane in lanes:
                closing.enter_context(lane)
            closing.callback(engine.keep_kernels)

    @property
    def execution(self) -> Execution:  # noqa: D102 - documented by Session
        api = self.api()
        return Execution(
            runtime=api.name, runtime_version=api.version, device=str(self._gpu), precision=self._precision
        )


def _ties(path: Path, runtime: RuntimeInfo) -> EngineTies:
    if runtime.engine is None:
        expected = "an engine's version, platform and compute capabilities"
        raise BundleError(f"{path} ties", got="none in the manifest", expected=expected, remedy="export it again")
    return runtime.engine


def _doubling_engine(api: EngineApi) -> Any:
    """An engine of the framework's own: y = x + x, on two floats, for the GPUs that it knows or the one at hand."""
    trt, log = api.trt, api.log
    log.clear()
    builder = trt.Builder(log.native)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.DataType.FLOAT, (2,))
    total = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    total.name = "y"
    network.mark_output(total)
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise RuntimeUnavailable(api.name, got=f"a failed build ({log.text})")
    return plan
