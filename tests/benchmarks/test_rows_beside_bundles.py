"""Rows that are no bundle: `torch.compile`, the naive export, and anyone's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from tiny_models import tiny_model

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.candidates.fidelity import measured_fidelity
from vqrae.benchmarks.candidates.foreign import image_axes
from vqrae.benchmarks.candidates.naive import NaiveCandidate
from vqrae.benchmarks.candidates.pytorch import PyTorchCandidate
from vqrae.benchmarks.lineup import foreign_candidate
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.table import row_names
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError

pytestmark = pytest.mark.slow


def save_sum(path: Path, shape: list[int | str | None], dtype: int = TensorProto.FLOAT) -> Path:
    """A file that sums an image over all axes but the first."""
    images = helper.make_tensor_value_info("pixels", dtype, shape)
    total = helper.make_tensor_value_info("total", dtype, None)
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    node = helper.make_node("ReduceSum", ["pixels", "axes"], ["total"])
    graph = helper.make_graph([node], "sum", [images], [total], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.xml"
    openvino.save_model(openvino.convert_model(save_sum(tmp_path / "sum.onnx", ["batch", 3, 24, 24])), path)
    return path


def test_foreign_files_stand_beside_encode(bundle, ir, tmp_path):
    theirs = save_sum(tmp_path / "theirs.onnx", ["batch", "channels", "height", "width"])
    options = {"batch_sizes": (1, 2), "threads": 1, "rounds": 6, "warmup": 0, "starts": 0}
    rows = bench([bundle], options=BenchOptions(foreign=[theirs, ir], **options)).rows
    names = ["ONNX Runtime FP32", "theirs.onnx", "theirs.xml at 24x24"]
    assert row_names(rows[:3]) == row_names(rows[3:6]) == names
    assert [row.label for row in rows[6:]] == ["ONNX Runtime FP32"] * 2  # decode
    onnx_row, ir_row = rows[1:3]
    assert (onnx_row.kind, onnx_row.runtime, onnx_row.precision, onnx_row.gate) == (
        "foreign",
        "onnxruntime",
        None,
        "unjudged",
    )
    assert ir_row.runtime == "openvino"
    assert onnx_row.size_mb == theirs.stat().st_size / 1e6
    assert ir_row.size_mb == (ir.stat().st_size + ir.with_suffix(".bin").stat().st_size) / 1e6
    assert all(row.p50_ms > 0 and row.speedup > 0 for row in (onnx_row, ir_row))
    alone = bench([], options=BenchOptions(foreign=[ir], graphs=("encode",), **options)).rows
    assert [(row.batch, row.label) for row in alone] == [(1, "theirs.xml"), (2, "theirs.xml")]


def test_open_axes_are_fed_with_the_image_s_size_and_own_sizes_are_kept():
    assert image_axes("f", (None, None, None, None), (32, 48)) == (None, 3, 32, 48)
    assert image_axes("f", (1, None, None, 3), (32, 48)) == (1, 32, 48, 3)
    assert image_axes("f", (None, 3, 24, 24), (32, 48)) == (None, 3, 24, 24)
    assert image_axes("f", (4, 3, 24, 24), None) == (4, 3, 24, 24)
    with pytest.raises(UsageError, match="expected fixed axes"):
        image_axes("f", (None, 3, None, None), None)
    for axes in ((1, 16, 32), (1, 8, 4, 4)):
        with pytest.raises(UsageError, match="expected an image: four axes"):
            image_axes("f", axes, (32, 32))


def test_the_input_that_the_file_asks_for_is_what_it_gets(tmp_path):
    half = foreign_candidate(
        save_sum(tmp_path / "half.onnx", [2, 4, 4, 3], TensorProto.FLOAT16), threads=1, size=(32, 32)
    )
    with half:
        assert [half.supports("encode", 1), half.supports("encode", 2), half.supports("decode", 2)] == [
            False,
            True,
            False,
        ]
        assert half.image_size == (4, 4)
        (total,) = half.call("encode", 2)()
        assert (total.dtype, total.shape) == (np.float16, (2, 1, 1, 1))
    with pytest.raises(UsageError, match=r"input pixels: got tensor\(int64\); expected one of float16, float32, uint8"):
        foreign_candidate(save_sum(tmp_path / "whole.onnx", [1, 3, 4, 4], TensorProto.INT64), threads=1, size=None)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.engine", BundleError, "got no such file; expected an engine"),
        ("a.pt", UsageError, r"expected one of \.onnx, \.xml, \.engine"),
        ("none.onnx", BundleError, "got no such file"),
        ("broken.onnx", BundleError, "ONNX Runtime .* refuses it"),
        ("broken.xml", BundleError, "OpenVINO .* refuses it"),
    ],
)
def test_what_cannot_be_a_row_is_refused(tmp_path, name, error, message):
    if "none" not in name:
        (tmp_path / name).write_text("nothing that anyone can load")
    with pytest.raises(error, match=message):
        foreign_candidate(tmp_path / name, threads=1, size=(32, 32))


def test_the_naive_export_computes_the_same(checkpoint, bundle):
    with PyTorchCandidate(checkpoint, threads=1) as pytorch, NaiveCandidate(checkpoint, threads=1) as naive:
        indices, _ = pytorch.call("encode", 1)()
        assert (naive.call("encode", 1)()[0] == indices).mean() > 0.99
        subject = naive.subject("encode")
        assert (subject.kind, subject.gate, subject.precision) == ("naive", "unjudged", "fp32")
        assert subject.figures.token_agreement > 0.99
        assert abs(subject.figures.excess_distortion) < 1e-5
        assert subject.figures.decode_psnr_db > 50


def test_fidelity_is_measured_in_whole_batches_and_sees_damage():
    model, seen = tiny_model(), []
    sound = ReferenceTokenizer(model)

    def encode(images):
        seen.append(len(images))
        return sound.encode(images)

    figures = measured_fidelity(model, encode, lambda indices: (sound.decode(indices),), batch=2, images=3)
    assert (seen, figures.images, figures.token_agreement, figures.decode_psnr_db) == ([2, 2], 3, 1.0, 100.0)
    worse = measured_fidelity(
        model, lambda images: encode(images // 2), lambda indices: (255 - sound.decode(indices),), batch=3, images=3
    )
    assert worse.token_agreement < 1
    assert worse.excess_distortion > 0
    assert worse.decode_psnr_db < 30


def test_variants_of_a_checkpoint_need_one(bundle):
    with pytest.raises(UsageError, match=r"torch\.compile: got no checkpoint"):
        bench([bundle], options=BenchOptions(compiled=True))
    with pytest.raises(UsageError, match="the naive export: got no checkpoint"):
        bench([bundle], options=BenchOptions(naive=True))


def test_without_a_compiler_there_is_no_torch_compile(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeUnavailable, match=r"torch\.compile: got no C\+\+ compiler; expected g\+\+ or clang\+\+"):
        PyTorchCandidate(checkpoint, threads=1, compiled=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++, which is not installed")
def test_torch_compile_computes_the_same(checkpoint):
    with (
        PyTorchCandidate(checkpoint, threads=1) as pytorch,
        PyTorchCandidate(checkpoint, threads=1, compiled=True) as compiled,
    ):
        for graph in ("encode", "decode"):
            expected, found = pytorch.call(graph, 1)(), compiled.call(graph, 1)()
            assert (expected[0] == found[0]).mean() > 0.99
        subject = compiled.subject("encode")
        assert (subject.kind, subject.gate) == ("compiled", "unjudged")
        assert subject.figures.token_agreement > 0.99
        assert subject.figures.decode_psnr_db > 50
