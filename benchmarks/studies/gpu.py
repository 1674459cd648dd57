"""The table of a machine with an NVIDIA GPU: builds engines, runs parity on the GPU, and times all rows in one run.

    python -m vqrae.benchmarks.studies.gpu base --calibration photographs/calibration --bundles runs/gpu -o docs/gpu.md

Rows: PyTorch eager and compiled in FP32 and FP16, ONNX Runtime with CUDA, and TensorRT or TensorRT-RTX, whichever is
installed, in FP32, FP16 and INT8. Exit codes: 4 where the GPU, its driver or a library is missing, all of it named in
one line; 3 where a bundle misses its gate on the GPU, after the page was written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from vqrae.benchmarks.candidates.candidate import runtime_title
from vqrae.benchmarks.lineup import image_size
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.figures import decibels, percent, tiny_percent
from vqrae.benchmarks.report.outputs import markdown_page
from vqrae.benchmarks.studies.performance import benchmark_parser, benchmarked, exported_bundles
from vqrae.benchmarks.studies.study import table
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


def checked_engine_format() -> str:
    """The format whose library is installed; refuses a machine that cannot fill the table, before any work.

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
    engine = next((name for name, module in ENGINES.items() if find_spec(module)), None)
    if engine is None:
        missing.append(f"neither {' nor '.join(ENGINES)}")
    if missing or engine is None:
        raise DeviceMissing(
            "the GPU's table",
            got=", ".join(missing),
            expected="an NVIDIA GPU, torch and onnxruntime-gpu for CUDA, and TensorRT or TensorRT-RTX",
            remedy="run it on a machine that has them",
        )
    return engine


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
    options = benchmark_parser("gpu", __doc__).parse_args()
    formats, load = ("onnx", checked_engine_format()), LoadOptions(device=DEVICE)
    bundles = exported_bundles(options.checkpoint, options.bundles, options.calibration, formats)
    parity = parity_rows(options.checkpoint, bundles, load, lambda text: print(text, file=sys.stderr))
    result = benchmarked(options, bundles, BenchOptions(compiled=True, load=load))
    title = f"# On a GPU\n\n{torch.cuda.get_device_name()}; copies to it and back are part of every call.\n\n"
    write_output(options.output.with_suffix(".json"), result.to_json())
    write_output(options.output, f"{title}{markdown_page(result)}\n## Parity on the GPU\n\n{parity_table(parity)}")
    for row in parity:
        if row.misses:
            raise GateFailure(row.bundle, got="; ".join(row.misses))


if __name__ == "__main__":
    run_as_program(main)
