"""The machine's own limit: one large matrix product on each library that is here, and one large copy.

They take turns with the rows of a benchmark, so that the limit is that of the same minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np

from vqrae.benchmarks.candidates.candidate import SEED, Graph
from vqrae.benchmarks.candidates.work import Work
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.interrupts import kept_signal_stack
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.load_options import LoadOptions

SIDE = 1024
"""Of the square matrices: large enough for every library's best, and 2 GFLOP small."""
COPIED_BYTES = 128 * 2**20
"""More than a processor's caches hold."""
Resource = Literal["fp32", "int8", "memory"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Something to time."""

    resource: Resource
    by: str
    """Who computes."""
    run: Callable[[], object]
    amount: float
    """Operations of one call, two to a multiply-add; of `memory` bytes, read and written."""


def machine_probes(threads: int, stack: ExitStack) -> list[Probe]:
    """The probes of what is installed; `stack` ends their threads.

    Raises:
        RuntimeUnavailable: nothing is that multiplies with a set number of threads.
    """
    probes: list[Probe] = []
    if find_spec("torch"):
        probes += _of_torch(threads)
    if find_spec("onnxruntime") and find_spec("onnx"):
        probes += _of_onnxruntime(threads)
    if find_spec("openvino"):
        probes += _of_openvino(threads)
    if not probes:
        expected = "torch, openvino, or onnxruntime and onnx"
        raise RuntimeUnavailable("the machine's peak", got="nothing to measure it with", expected=expected)
    return [*probes, _copy(stack.enter_context(ThreadPoolExecutor(threads)), threads)]


def _gemm(resource: Resource, by: str, run: Callable[[], object]) -> Probe:
    return Probe(resource=resource, by=by, run=run, amount=2 * SIDE**3)


def _of_torch(threads: int) -> Iterator[Probe]:
    import torch

    torch.set_num_threads(threads)  # as PyTorch's row has them: they hold for the whole process
    a, b = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(SEED))
    out = torch.empty(SIDE, SIDE)
    yield _gemm("fp32", "PyTorch", lambda: torch.mm(a, b, out=out))


def _of_onnxruntime(threads: int) -> Iterator[Probe]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from vqrae.runtimes.backends.onnxruntime import session_options

    generator = np.random.default_rng(SEED)
    floats = generator.standard_normal((2, SIDE, SIDE), np.float32)
    bytes_ = generator.integers(0, 256, (SIDE, SIDE), np.uint8)
    signed = generator.integers(-127, 128, (SIDE, SIDE), np.int8)
    for resource, operator, taken, given, a, b in (
        ("fp32", "MatMul", TensorProto.FLOAT, TensorProto.FLOAT, floats[0], floats[1]),
        ("int8", "MatMulInteger", TensorProto.UINT8, TensorProto.INT32, bytes_, signed),
    ):
        edges = [helper.make_tensor_value_info(name, kind, (SIDE, SIDE)) for name, kind in (("a", taken), ("y", given))]
        node = helper.make_node(operator, ["a", "b"], ["y"])
        graph = helper.make_graph([node], "gemm", edges[:1], edges[1:], [numpy_helper.from_array(b, "b")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(LoadOptions(threads=threads)),
            providers=["CPUExecutionProvider"],
        )
        run = lambda session=session, a=a: session.run(None, {"a": a})  # noqa: E731 - binds this turn's
        yield _gemm("fp32" if resource == "fp32" else "int8", "ONNX Runtime", run)


def _of_openvino(threads: int) -> Iterator[Probe]:
    from vqrae.runtimes.backends.openvino import native_properties
    from vqrae.runtimes.backends.openvino_library import openvino
    from vqrae.runtimes.backends.openvino_library import opset13 as ops

    generator = np.random.default_rng(SEED)
    values = generator.random((SIDE, SIDE), np.float32)
    a = ops.parameter([SIDE, SIDE], np.float32, name="a")
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(1))
    quantized = ops.fake_quantize(a, low, high, low, high, 256)
    integers = ops.constant(generator.integers(-127, 128, (SIDE, SIDE), np.int8))
    weights = ops.multiply(ops.convert(integers, np.float32), ops.constant(np.float32(0.01)))
    products = {
        "fp32": ops.matmul(a, ops.constant(values), False, False),
        "int8": ops.matmul(quantized, weights, False, False),
    }
    for resource, product in products.items():
        properties = native_properties(LoadOptions(threads=threads))
        with kept_signal_stack():
            compiled = openvino.Core().compile_model(openvino.Model([product], [a], "gemm"), "CPU", properties)
        request = compiled.create_infer_request()
        run = lambda request=request: request.infer({0: values}, share_inputs=True)  # noqa: E731 - binds this turn's
        if resource == "fp32" or _computes_in_int8(compiled):
            yield _gemm("fp32" if resource == "fp32" else "int8", "OpenVINO", run)


def _computes_in_int8(compiled: object) -> bool:
    """Whether the product is one of integers: on a processor without them OpenVINO computes in floating point."""
    operations = compiled.get_runtime_model().get_ops()  # type: ignore[attr-defined] # the library has no types
    infos = [operation.get_rt_info() for operation in operations]
    kinds = {
        info["runtimePrecision"].value for info in infos if info["layerType"].value in ("FullyConnected", "MatMul")
    }
    return bool(kinds) and kinds <= {"u8", "i8"}


def _copy(pool: ThreadPoolExecutor, threads: int) -> Probe:
    """Each thread copies its part, as NumPy does without holding the interpreter."""
    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.zeros_like(source)
    parts: Sequence[tuple[np.ndarray, np.ndarray]] = list(
        zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
    )
    return Probe(
        resource="memory",
        by="NumPy",
        run=lambda: list(pool.map(lambda pair: np.copyto(*pair), parts)),
        amount=2 * COPIED_BYTES,
    )


class Limit(Record):
    """The best of the libraries that are here, by the medians of their times; operations are two to a multiply-add."""

    graph: Graph
    batch: int
    threads: int
    fp32_gflops: float
    """10⁹ operations per second."""
    fp32_by: str
    """The library that reached it."""
    int8_gops: float | None
    """10⁹ operations per second; None where no library multiplies integers here."""
    int8_by: str | None
    memory_gb_s: float
    """10⁹ bytes per second of a large copy, read and written."""

    def least_ms(self, work: Work) -> float | None:
        """The time in which the arithmetic of a call would be done at the peak; None if there is none for its INT8."""
        if not work.int8_macs:
            return 2 * work.float_macs / self.fp32_gflops / 1e6
        if self.int8_gops is None:
            return None
        return 2 * (work.float_macs / self.fp32_gflops + work.int8_macs / self.int8_gops) / 1e6


def measured_limit(
    probes: Sequence[Probe], seconds: Mapping[Probe, Sequence[float]], *, graph: Graph, batch: int, threads: int
) -> Limit:
    """The limit, from the durations of each probe's calls."""
    rates = {probe: probe.amount / float(np.median(seconds[probe])) / 1e9 for probe in probes}

    def best(resource: Resource) -> Probe | None:
        return max((probe for probe in probes if probe.resource == resource), key=rates.__getitem__, default=None)

    fp32, int8, memory = best("fp32"), best("int8"), best("memory")
    assert fp32 is not None, "every library has one"  # noqa: S101
    assert memory is not None, "NumPy has one"  # noqa: S101
    return Limit(
        graph=graph,
        batch=batch,
        threads=threads,
        fp32_gflops=rates[fp32],
        fp32_by=fp32.by,
        int8_gops=rates[int8] if int8 else None,
        int8_by=int8.by if int8 else None,
        memory_gb_s=rates[memory],
    )
