"""The demo: one checkpoint exported, verified, benchmarked, and shown on photographs, into one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.html import write_report
from vqrae.benchmarks.report.outputs import markdown_page
from vqrae.benchmarks.report.picture import reconstruction_picture
from vqrae.benchmarks.report.reconstructions import Reconstructions, golden_reconstructions
from vqrae.benchmarks.report.table import summary_table
from vqrae.benchmarks.rows import BenchResult
from vqrae.calibration.images import LEAST_IMAGES, CalibrationImages, calibration_images
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.formats import Target, target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.export.verify import VerifyRow
from vqrae.images.photographs import TRAIN, crops
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable
from vqrae.runtimes.evidence import GateVerdict
from vqrae.runtimes.manifest import MANIFEST_FILE, Manifest, read_manifest
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.preprocess import prepare
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import load

BENCHMARK_FILE = "benchmark.json"
PICTURES = 6
"""Photographs shown: the whole ones first, then crops."""


EXPORTS = (
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("openvino", "int8"),
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
    """Why something was left out: its runtime is not installed, or its INT8 is not worth it on this machine."""
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
        output: gets the bundles, `reconstruction.png`, `report.html`, `benchmark.{json,md}` and `summary.md`.
        rounds: timed calls of each candidate.
        command: what the user typed, to be printed with the result.
        report: told of each step as it begins.

    Raises:
        GateFailure: a bundle misses its parity gate, but for INT8, which is left out then.
        RuntimeUnavailable: ONNX Runtime is not installed.
    """
    targets, missing = _installed_targets()
    opened = VqraeTokenizer(open_checkpoint(str(checkpoint)))
    photographs = parity_images(None, opened.model.size)
    with staged_folder(output, overwrite=True) as staging:
        report("cropping photographs to calibrate INT8 on")
        observed = _calibration_images(opened.model.size)
        with BundleBuilder(opened, photographs, report, observed) as builder:
            verified = [row for target in targets if (row := _built(builder, target, staging, missing)) is not None]
        bundles = [Path(row.bundle) for row in verified]
        result = bench(
            bundles,
            checkpoint,
            BenchOptions(rounds=rounds, limit=True),
            command=command,
            progress=lambda stage, done, total: report(f"{stage}: {done} of {total}"),
        )
        report("reconstructing photographs")
        _draw(staging / "reconstruction.png", bundles[0], photographs.names[:PICTURES], photographs.images[:PICTURES])
        manifests = [read_manifest(bundle / MANIFEST_FILE) for bundle in bundles]
        _write_pages(staging, result, manifests, golden_reconstructions(bundles, result))
    names = (*(bundle.name for bundle in bundles), "reconstruction.png", "report.html", BENCHMARK_FILE)
    moved = [row.model_copy(update={"bundle": str(output / Path(row.bundle).name)}) for row in verified]
    return Demo(verified=moved, missing=missing, benchmark=result, files=tuple(output / name for name in names))


def _built(builder: BundleBuilder, wanted: Target, folder: Path, missing: list[str]) -> VerifyRow | None:
    """A bundle's row; of INT8 that misses its gate or is no faster here, only the reason."""
    try:
        return builder.build(wanted, folder)
    except GateFailure as error:
        if not PRECISIONS[wanted.precision].must_be_faster:
            raise
        missing.append(str(error))
        return None


def _calibration_images(size: tuple[int, int]) -> CalibrationImages:
    """Crops of the training photographs: none of them is verified on."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "crops.npy"
        np.save(source, np.stack([prepare(crop, *size) for crop in crops(TRAIN, LEAST_IMAGES)]))
        return calibration_images(source, size)


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


def _write_pages(
    folder: Path, result: BenchResult, manifests: Sequence[Manifest], pictures: Reconstructions | None
) -> None:
    (folder / BENCHMARK_FILE).write_text(result.to_json())
    (folder / "benchmark.md").write_text(markdown_page(result))
    (folder / "summary.md").write_text(markdown_page(result, summary_table))
    title = manifests[0].checkpoint.name
    write_report(folder / "report.html", result, manifests, title=title, pictures=pictures)


def _draw(path: Path, bundle: Path, labels: tuple[str, ...], originals: NDArray[np.uint8]) -> None:
    with load(bundle) as tokenizer:
        reconstruction_picture(originals, tokenizer.reconstruct(originals), labels).save(path)
