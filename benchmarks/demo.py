"""The demo: one checkpoint exported, verified, benchmarked, and shown on photographs, into one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.bench import run_benchmark
from vqrae.benchmarks.picture import reconstruction_picture
from vqrae.benchmarks.report import Pictures, write_report
from vqrae.benchmarks.rows import BenchResult
from vqrae.benchmarks.table import markdown_table
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder, check_format
from vqrae.export.parity_images import parity_images
from vqrae.export.verify import VerifyRow
from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import load

BENCHMARK_FILE = "benchmark.json"
PICTURES = 6
"""Photographs shown: the whole ones first, then crops."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo left."""

    verified: VerifyRow
    benchmark: BenchResult
    files: tuple[Path, ...]


def run_demo(checkpoint: Path, output: Path, *, rounds: int, command: str, report: Callable[[str], None]) -> Demo:
    """Export, verify, benchmark and reconstruct; `output` appears whole or not at all, and replaces what was there.

    Args:
        checkpoint: a checkpoint's folder.
        output: gets the bundle, `reconstruction.png`, `report.html`, `benchmark.json` and `benchmark.md`.
        rounds: timed calls of each candidate.
        command: what the user typed, to be printed with the result.
        report: told of each step as it begins.

    Raises:
        GateFailure: the bundle misses its parity gate.
    """
    check_format("onnx", "fp32")
    opened = open_checkpoint(str(checkpoint))
    photographs = parity_images(None, opened.model.config.image_size)
    with staged_folder(output, overwrite=True) as staging:
        verified = BundleBuilder(opened, photographs, report).build("onnx", "fp32", staging)
        name = Path(verified.bundle).name
        bundle = staging / name
        result = run_benchmark(
            checkpoint,
            [bundle],
            rounds=rounds,
            command=command,
            progress=lambda stage, done, total: report(f"{stage}: {done} of {total}"),
        )
        (staging / BENCHMARK_FILE).write_text(result.to_json())
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        (staging / "benchmark.md").write_text(f"{markdown_table(result)}\n{versions}; {result.date}; `{command}`.\n")
        report("reconstructing photographs")
        pictures = _reconstructed(bundle, photographs.names[:PICTURES], photographs.images[:PICTURES])
        reconstruction_picture(pictures.originals, pictures.reconstructions, pictures.labels).save(
            staging / "reconstruction.png"
        )
        manifest = read_manifest(bundle / MANIFEST_FILE)
        write_report(staging / "report.html", result, [manifest], title=manifest.checkpoint.name, pictures=pictures)
    files = tuple(output / file for file in (name, "reconstruction.png", "report.html", BENCHMARK_FILE))
    verified = verified.model_copy(update={"bundle": str(output / name)})
    return Demo(verified=verified, benchmark=result, files=files)


def _reconstructed(bundle: Path, labels: tuple[str, ...], originals: NDArray[np.uint8]) -> Pictures:
    with load(bundle) as tokenizer:
        return Pictures(originals=originals, reconstructions=tokenizer.reconstruct(originals), labels=labels)
