"""The arithmetic that is counted, the peak that it is compared with, and the plot of both."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.candidates.naive import NaiveCandidate
from vqrae.benchmarks.candidates.onnx_work import onnx_work
from vqrae.benchmarks.candidates.pytorch import PyTorchCandidate
from vqrae.benchmarks.candidates.work import Work, counted_work
from vqrae.benchmarks.measure import limit as probes_module
from vqrae.benchmarks.measure.limit import Limit, Probe, machine_probes, measured_limit
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.charts import rooflines
from vqrae.benchmarks.report.table import bench_table, limit_notes, markdown_table, speed_columns
from vqrae.benchmarks.rows import BenchResult
from vqrae.calibration.layers import matrix_products

LIMIT = Limit(
    graph="encode",
    batch=1,
    threads=2,
    fp32_gflops=100.0,
    fp32_by="PyTorch",
    int8_gops=400.0,
    int8_by="OpenVINO",
    memory_gb_s=10.0,
)


@pytest.fixture
def counted(result: BenchResult) -> BenchResult:
    """The rows that were timed with a billion multiply-adds each; the third row does half of them in INT8."""
    work = {"gmacs": 0.5, "int8_gmacs": 0.0, "traffic_mb": 20.0, "peak_share": 0.5}
    rows = [row.model_copy(update=work) if row.executed else row for row in result.rows]
    rows[2] = rows[2].model_copy(update={"int8_gmacs": 0.25, "traffic_mb": 10.0, "peak_share": 0.314})
    return result.model_copy(update={"rows": tuple(rows), "limits": (LIMIT,)})


def test_the_bundle_s_products_are_counted(bundle):
    work = counted_work(bundle / "encode.onnx", (1, 32, 32, 3))
    products = matrix_products(bundle / "encode.onnx")
    assert work.float_macs == sum(product.multiplications for product in products)
    assert work.int8_macs == 0
    two = counted_work(bundle / "encode.onnx", (2, 32, 32, 3))
    assert two.macs == 2 * work.macs
    images, results = 32 * 32 * 3, 16 * 4 + 16 * 32 * 4
    assert two.bytes_moved - work.bytes_moved == images + results  # the weights are read once


def test_other_readers_count_the_same(bundle, checkpoint, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    for graph, shape in (("encode", (2, 32, 32, 3)), ("decode", (2, 4, 4))):
        openvino.save_model(
            openvino.convert_model(bundle / f"{graph}.onnx"), tmp_path / f"{graph}.xml", compress_to_fp16=False
        )
        onnx_count, ir_count = (
            counted_work(path, shape) for path in (bundle / f"{graph}.onnx", tmp_path / f"{graph}.xml")
        )
        assert ir_count.macs == onnx_count.macs
        assert ir_count.bytes_moved == pytest.approx(onnx_count.bytes_moved, rel=0.05)


def test_the_model_as_written_multiplies_more(checkpoint, bundle):
    folded = counted_work(bundle / "encode.onnx", (1, 32, 32, 3))
    with PyTorchCandidate(checkpoint, threads=1) as pytorch, NaiveCandidate(checkpoint, threads=1) as naive:
        naive.call("encode", 1)
        written, traced = pytorch.work("encode", 1), naive.work("encode", 1)
    assert traced.macs == written.macs > folded.macs  # attention's products included: PyTorch counts no fused ones


def save(path: Path, nodes: list[onnx.NodeProto], shape: tuple[int | str, ...], weights: dict[str, np.ndarray]) -> Path:
    edges = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_each_kind_of_product_is_counted(tmp_path):
    node = helper.make_node
    gemm = save(
        tmp_path / "gemm.onnx", [node("Gemm", ["x", "w"], ["y"], transA=1)], (4, 3), {"w": np.zeros((4, 5), np.float32)}
    )
    assert onnx_work(gemm, (4, 3)) == Work(float_macs=3 * 4 * 5, int8_macs=0, bytes_moved=4 * (12 + 20 + 15))
    conv = save(
        tmp_path / "conv.onnx",
        [node("Conv", ["x", "w"], ["y"], group=2)],
        ("b", 4, 8, 8),
        {"w": np.zeros((6, 2, 3, 3), np.float32)},
    )
    assert onnx_work(conv, (2, 4, 8, 8)).float_macs == 2 * 6 * 6 * 6 * (2 * 3 * 3)
    scale, byte = np.float32(0.1), np.int8(0)
    quantized = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s", "z"], ["e"]),
        node("MatMul", ["d", "e"], ["y"]),
    ]
    weights = {"w": np.zeros((4, 5), np.int8), "s": np.array(scale), "z": np.array(byte)}
    path = save(tmp_path / "q.onnx", quantized, (3, 4), weights)
    assert onnx_work(path, (3, 4)).int8_macs == 3 * 4 * 5
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    openvino.save_model(openvino.convert_model(path), path.with_suffix(".xml"))
    assert counted_work(path.with_suffix(".xml"), (3, 4)).int8_macs == 3 * 4 * 5


def test_what_cannot_be_counted_is_none(tmp_path):
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")]
    path = save(tmp_path / "fused.onnx", nodes, (3, 4), {"w": np.zeros((4, 5), np.float32)})
    assert onnx_work(path, (3, 4)) is None


def test_the_least_time_takes_each_part_at_its_own_peak():
    work = Work(float_macs=10**9, int8_macs=2 * 10**9, bytes_moved=1)
    assert LIMIT.least_ms(work) == pytest.approx(20 + 10)
    assert LIMIT.model_copy(update={"int8_gops": None}).least_ms(work) is None
    assert LIMIT.least_ms(Work(float_macs=10**9, int8_macs=0, bytes_moved=1)) == pytest.approx(20)


def test_the_best_library_is_the_limit():
    probes = [
        Probe(resource="fp32", by="slow", run=str, amount=1e9),
        Probe(resource="fp32", by="fast", run=str, amount=1e9),
        Probe(resource="memory", by="NumPy", run=str, amount=1e9),
    ]
    seconds = dict(zip(probes, ([0.2] * 3, [0.1, 0.1, 9.0], [0.5] * 3), strict=True))
    limit = measured_limit(probes, seconds, graph="encode", batch=1, threads=1)
    assert (limit.fp32_by, limit.fp32_gflops, limit.memory_gb_s) == ("fast", pytest.approx(10), pytest.approx(2))
    assert limit.int8_gops is limit.int8_by is None


def test_every_probe_computes(monkeypatch):
    monkeypatch.setattr(probes_module, "SIDE", 32)
    monkeypatch.setattr(probes_module, "COPIED_BYTES", 1000)
    with ExitStack() as stack:
        found = machine_probes(2, stack)
        assert {(probe.resource, probe.by) for probe in found} >= {
            ("fp32", "PyTorch"),
            ("fp32", "ONNX Runtime"),
            ("int8", "ONNX Runtime"),
            ("fp32", "OpenVINO"),
            ("memory", "NumPy"),
        }
        for probe in found:
            probe.run()


def test_rows_are_shares_of_the_peak_of_their_own_rounds(checkpoint, bundle, monkeypatch):
    monkeypatch.setattr(probes_module, "SIDE", 128)
    monkeypatch.setattr(probes_module, "COPIED_BYTES", 2**20)
    result = bench([bundle], checkpoint, BenchOptions(threads=1, rounds=6, warmup=0, starts=0, limit=True))
    assert [(limit.graph, limit.batch, limit.threads) for limit in result.limits] == [
        ("encode", 1, 1),
        ("decode", 1, 1),
    ]
    for row in result.rows:
        limit = next(limit for limit in result.limits if limit.graph == row.graph)
        assert row.peak_share == pytest.approx(row.gflops / limit.fp32_gflops)
    assert BenchResult.from_json(result.to_json()) == result
    assert [chart.title for chart in rooflines(result)] == ["encode · batch 1", "decode · batch 1"]


def test_tables_say_the_share_and_the_peak(counted, result):
    assert "peak" in [column.title for column in speed_columns(counted)]
    assert "peak" not in [column.title for column in speed_columns(result)]
    text = markdown_table(counted)
    assert "| 1× | 50% | – | reference |" in text
    assert "peak: FP32 100 GFLOP/s (PyTorch), INT8 400 GOP/s (OpenVINO), memory 10.0 GB/s, measured in turns" in text
    assert limit_notes(result) == []


def test_the_terminal_s_table_still_fits_80_columns(counted):
    console = Console(width=80, no_color=True)
    mixed = counted.rows[2].model_copy(update={"int8_share": 0.46, "gate": "pass"})
    with console.capture() as capture:
        console.print(bench_table(counted.model_copy(update={"rows": (*counted.rows, mixed)})))
    assert "…" not in capture.get()


def test_no_row_is_drawn_above_its_ceiling(counted):
    (chart,) = rooflines(counted)
    assert [ceiling.label for ceiling in chart.ceilings] == ["FP32 100", "INT8 400", "memory 10.0 GB/s"]
    fp32, int8, memory = chart.ceilings
    assert fp32.is_flat
    assert int8.y1 < fp32.y1
    assert not memory.is_flat
    assert (memory.x2, memory.y2) == pytest.approx((int8.x1, int8.y1))  # they meet at the ridge
    assert [point.number for point in chart.points] == [1, 2, 3]
    assert [point.label for point in chart.points] == ["ONNX Runtime FP32", "ONNX Runtime INT8", "PyTorch FP32"]
    assert all(0 <= place <= 100 for point in chart.points for place in (point.x, point.y, point.number_y))
    assert all(b.number_y - a.number_y >= 6 for a, b in zip(chart.points, chart.points[1:], strict=False))


def test_without_a_limit_there_is_no_plot(result):
    assert rooflines(result) == []
