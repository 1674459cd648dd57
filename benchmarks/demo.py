"""The demo: one checkpoint exported, verified, benchmarked, and shown on photographs, into one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.formats import Target, target
from vqrae.export.parity_images import parity_images
from vqrae.export.verify import VerifyRow
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import MANIFEST_FILE, GateVerdict, Manifest, read_manifest
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import load

BENCHMARK_FILE = "benchmark.json"
PICTURES = 6
"""Photographs shown: the whole ones first, then crops."""


EXPORTS = (
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("coreml", "fp32"),
    ("coreml", "fp16"),
    ("tensorrt-rtx", "fp32"),
    ("tensorrt-rtx", "fp16"),
)
"""What the demo exports, as far as it is installed; the first must be."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo left."""

    verified: list[VerifyRow]
    """A row for each bundle."""
    missing: list[str]
    """Why a format was left out: its runtime is not installed."""
    benchmark: BenchResult
    files: tuple[Path, ...]

    @property
    def gate(self) -> GateVerdict:
        """The verdict on all bundles that were executed: `pass` if each passed."""
        executed = [row.gate for row in self.verified if row.executed]
        return "fail" if "fail" in executed else "pass" if executed else "not-executed"


def run_demo(checkpoint: Path, output: Path, *, rounds: int, command: str, report: Callable[[str], None]) -> Demo:
    """Export, verify, benchmark and reconstruct; `output` appears whole or not at all, and replaces what was there.

    Args:
        checkpoint: a checkpoint's folder.
        output: gets the bundles, `reconstruction.png`, `report.html`, `benchmark.json` and `benchmark.md`.
        rounds: timed calls of each candidate.
        command: what the user typed, to be printed with the result.
        report: told of each step as it begins.

    Raises:
        GateFailure: a bundle misses its parity gate.
        RuntimeUnavailable: ONNX Runtime is not installed.
    """
    targets, missing = _installed_targets()
    opened = open_checkpoint(str(checkpoint))
    photographs = parity_images(None, opened.model.size)
    with staged_folder(output, overwrite=True) as staging:
        with BundleBuilder(opened, photographs, report) as builder:
            verified = [builder.build(target, staging) for target in targets]
        bundles = [Path(row.bundle) for row in verified]
        result = run_benchmark(
            checkpoint,
            bundles,
            rounds=rounds,
            command=command,
            progress=lambda stage, done, total: report(f"{stage}: {done} of {total}"),
        )
        report("reconstructing photographs")
        pictures = _reconstructed(bundles[0], photographs.names[:PICTURES], photographs.images[:PICTURES])
        _write_pages(staging, result, [read_manifest(bundle / MANIFEST_FILE) for bundle in bundles], pictures)
    names = (*(bundle.name for bundle in bundles), "reconstruction.png", "report.html", BENCHMARK_FILE)
    moved = [row.model_copy(update={"bundle": str(output / Path(row.bundle).name)}) for row in verified]
    return Demo(verified=moved, missing=missing, benchmark=result, files=tuple(output / name for name in names))


def _installed_targets() -> tuple[list[Target], list[str]]:
    """What can be exported here, and why the rest cannot."""
    targets: list[Target] = []
    missing: dict[str, str] = {}
    for format_name, precision in EXPORTS:
        wanted = target(format_name, precision)
        try:
            check_target(wanted)
        except RuntimeUnavailable as error:
            if not targets:
                raise
            missing[format_name] = str(error)
        else:
            targets.append(wanted)
    return targets, list(missing.values())


def _write_pages(folder: Path, result: BenchResult, manifests: Sequence[Manifest], pictures: Pictures) -> None:
    (folder / BENCHMARK_FILE).write_text(result.to_json())
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    (folder / "benchmark.md").write_text(f"{markdown_table(result)}\n{versions}; {result.date}; `{result.command}`.\n")
    picture = reconstruction_picture(pictures.originals, pictures.reconstructions, pictures.labels)
    picture.save(folder / "reconstruction.png")
    title = manifests[0].checkpoint.name
    write_report(folder / "report.html", result, manifests, title=title, pictures=pictures)


def _reconstructed(bundle: Path, labels: tuple[str, ...], originals: NDArray[np.uint8]) -> Pictures:
    with load(bundle) as tokenizer:
        return Pictures(originals=originals, reconstructions=tokenizer.reconstruct(originals), labels=labels)
