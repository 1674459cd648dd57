"""The GPU's table, up to the driver; what it is made of runs on the CPU as well as it would there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.lineup import FLOATS
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.rows import BenchRow
from vqrae.benchmarks.studies import gpu
from vqrae.runtimes.errors import DeviceMissing, run_as_program
from vqrae.runtimes.load_options import LoadOptions

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_names_what_is_missing_in_one_line_and_exits_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = ("--calibration", "none", "--bundles", str(tmp_path / "bundles"), "-o", str(tmp_path / "gpu.md"))
    monkeypatch.setattr(sys, "argv", ["gpu", "tiny", *folders])
    with pytest.raises(SystemExit) as left:
        run_as_program(gpu.main)
    assert left.value.code == DeviceMissing.exit_code == 4
    error = capsys.readouterr().err
    assert error.startswith(f"vqrae: the GPU's table: got torch {torch.__version__} ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_all_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ENGINES", {"tensorrt": "no_such_library", "tensorrt-rtx": "nor_this_one"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        DeviceMissing, match=r"onnxruntime .* without CUDA, neither tensorrt nor tensorrt-rtx; expected"
    ):
        gpu.checked_engine_format()


def rows_on_the_cpu(
    checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *, compiled: bool
) -> tuple[BenchRow, ...]:
    """The CPU stands in for the device."""
    monkeypatch.setitem(FLOATS, "cpu", FLOATS["others"])
    given = {"graphs": ("encode",), "threads": 1, "rounds": 6, "warmup": 0, "starts": 0}
    return bench([bundle], checkpoint, BenchOptions(compiled=compiled, **given, load=LoadOptions(device="cpu"))).rows


def test_the_rows_of_a_device(checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_on_the_cpu(checkpoint, bundle, monkeypatch, compiled=False)
    assert [row.label for row in rows] == ["PyTorch FP32", "PyTorch FP16", "ONNX Runtime FP32"]
    assert [row.gate for row in rows] == ["reference", "unjudged", "pass"]
    assert {row.device for row in rows} == {"cpu"}
    full, half, _ = rows
    assert full.token_agreement is None
    assert half.decode_psnr_db is not None
    assert 30 < half.decode_psnr_db < 100, "FP16 rounds"


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_compiled_rows_of_a_device(checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_on_the_cpu(checkpoint, bundle, monkeypatch, compiled=True)[2:4]
    assert [row.label for row in rows] == ["torch.compile FP32", "torch.compile FP16"]
    assert all(row.token_agreement is not None and row.token_agreement > 0.9 for row in rows)


def test_parity_runs_on_the_device_and_is_told(checkpoint: Path, bundle: Path) -> None:
    told: list[str] = []
    rows = gpu.parity_rows(str(checkpoint), [bundle], LoadOptions(device="cpu"), told.append)
    assert [(row.device, row.gate) for row in rows] == [("cpu", "pass")]
    assert told
    lines = gpu.parity_table(rows).splitlines()
    assert lines[2].startswith("| ONNX Runtime FP32 | cpu | pass | ")
    assert len({line.count("|") for line in lines}) == 1
