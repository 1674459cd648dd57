"""The table of a machine with an NVIDIA GPU: builds engines, runs parity on the GPU, and times all rows in one run.

    python -m vqrae.benchmarks.studies.gpu base --calibration photographs/calibration --bundles runs/gpu -o docs/gpu.md

Rows: PyTorch eager and compiled in FP32 and FP16, ONNX Runtime with CUDA, and TensorRT or TensorRT-RTX, whichever is
installed, in FP32, FP16 and INT8. Exit codes: 4 where the GPU, its driver or a library is missing, all of it named in
one line; 3 where a bundle misses its gate on the GPU, after the page was written.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.candidates.candidate import runtime_title
from vqrae.benchmarks.lineup import image_size
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.figures import decibels, percent, tiny_percent
from vqrae.benchmarks.report.outputs import markdown_page
from vqrae.benchmarks.studies.performance import exported_bundles
from vqrae.benchmarks.studies.study import StudyParser, table
from vqrae.checkpoint import open_checkpoint
from vqrae.export.comparison import verify_bundles
from vqrae.export.parity_images import parity_images
from vqrae.export.reference import reference_from_model
from vqrae.export.tokenizers.vqrae import VqraeReference
from vqrae.export.verify import VerifyRow
from vqrae.model.vqrae import resized
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import DeviceMissing, GateFailure, run_as_program
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.staging import write_output

DEVICE = "cuda"
ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Formats of engines, the first that is installed is taken -> the library's import name."""
TITLES = ("bundle", "device", "gate", "tokens", "excess", "decode")


def engine_format() -> str | None:
    """The format whose library is installed; None without one."""
    return next((name for name, module in ENGINES.items() if find_spec(module)), None)


def check_gpu() -> None:
    """Refuse a machine that cannot fill the table, before any work.

    Raises:
        DeviceMissing: names all that is missing.
    """
    missing = []
    if not torch.cuda.is_available():
        built = "no NVIDIA GPU or driver" if torch.version.cuda else "built without CUDA"
        missing.append(f"torch {torch.__version__} {built}")
    if not find_spec("onnxruntime"):
        missing.append("no onnxruntime")
    else:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            missing.append(f"onnxruntime {onnxruntime.__version__} without CUDA")
    if engine_format() is None:
        missing.append(f"neither {' nor '.join(ENGINES)}")
    if missing:
        raise DeviceMissing(
            "the GPU's table",
            got=", ".join(missing),
            expected="an NVIDIA GPU, torch and onnxruntime-gpu for CUDA, and TensorRT or TensorRT-RTX",
            remedy="run it on a machine that has them",
        )


def parity_rows(
    checkpoint: str, bundles: Sequence[Path], options: LoadOptions, report: Callable[[str], None]
) -> list[VerifyRow]:
    """Each bundle against the PyTorch model on the CPU in FP32, executed where `options` say.

    Raises:
        RuntimeUnavailable: the device is not there.
    """
    model = open_checkpoint(checkpoint).model
    model = resized(model, image_size(bundles) or model.size)
    reference = reference_from_model(VqraeReference(model), parity_images(None, model.size).images)
    return verify_bundles([Bundle.open(path) for path in bundles], reference, options, report)


def parity_table(rows: Sequence[VerifyRow]) -> str:
    """The verdicts in Markdown, and below them why a bundle was not executed."""
    cells = []
    for row in rows:
        name = f"{runtime_title(row.runtime)} {row.precision.upper()}"
        excess, agreement, psnr = (
            getattr(row.figures, figure, None) for figure in ("excess_distortion", "token_agreement", "decode_psnr_db")
        )
        figures = (percent(agreement), tiny_percent(excess), decibels(psnr))
        cells.append((name, row.device or "–", row.gate, *figures))
    reasons = dict.fromkeys(row.reason for row in rows if row.reason)
    return table(TITLES, cells, figures=3) + "".join(f"\n{reason}\n" for reason in reasons)


def main() -> None:
    """Command line; writes a Markdown page, and the result beside it as JSON."""
    parser = StudyParser("gpu", __doc__)
    parser.add_checkpoint()
    parser.add_argument("--calibration", type=Path, required=True, help="images to calibrate INT8 on")
    parser.add_argument("--bundles", type=Path, required=True, help="folder for the bundles")
    parser.add_argument("--batch", type=int, action="append", help="images per call; repeatable; 1 if not given")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each row")
    parser.add_output()
    options = parser.parse_args()
    check_gpu()
    engines = engine_format()
    assert engines is not None, "the check found one"  # noqa: S101
    bundles = exported_bundles(options.checkpoint, options.bundles, options.calibration, ("onnx", engines))
    with Console(stderr=True).status("") as status:
        parity = parity_rows(options.checkpoint, bundles, LoadOptions(device=DEVICE), status.update)
        result = bench(
            bundles,
            options.checkpoint,
            BenchOptions(
                batch_sizes=options.batch or [1],
                rounds=options.rounds,
                compiled=True,
                load=LoadOptions(device=DEVICE),
            ),
            command=shlex.join(["python", "-m", options.module, *sys.argv[1:]]),
            progress=lambda stage, done, total: status.update(f"{stage}: {done} of {total}"),
        )
    title = f"# On a GPU\n\n{torch.cuda.get_device_name()}; copies to it and back are part of every call.\n\n"
    for path, text in (
        (options.output.with_suffix(".json"), result.to_json()),
        (options.output, f"{title}{markdown_page(result)}\n## Parity on the GPU\n\n{parity_table(parity)}"),
    ):
        write_output(path, text)
    for row in parity:
        if row.misses:
            raise GateFailure(row.bundle, got="; ".join(row.misses))


if __name__ == "__main__":
    run_as_program(main)
