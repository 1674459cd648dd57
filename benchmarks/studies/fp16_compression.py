"""What FP16 costs in tokens: our graphs, which keep the scores in FP32, against compression of all weights.

    python -m vqrae.benchmarks.studies.fp16_compression assets/vqrae-tiny -o docs/explanation/fp16.md

Covered: OpenVINO on this machine's processor, on the held-out photographs. Not covered: devices that compute in FP16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from vqrae.benchmarks.report.figures import decibels, percent, significant, tiny_percent
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.studies.study import StudyParser, table
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import DEFAULT_COUNT, parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.export.verify import gather_evidence
from vqrae.runtimes.backends.openvino_library import openvino
from vqrae.runtimes.bundle import Bundle, listed_files, write_manifest
from vqrae.runtimes.errors import run_as_program
from vqrae.runtimes.parity import judge_parity, misses
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.tokenizer import Tokenizer

TITLE = """# What FP16 costs in tokens

Codes lie close together, so rounding the weights of the scores to FP16 moves many a token to a neighboring code, even
where the arithmetic stays in FP32. Our graphs multiply the scores in FP32, by weights that are stored as int16 with a
scale for each code, which takes as little room and is far closer; the rest is FP16.

"""
TITLES = ("OpenVINO", "graphs MB", "tokens", "excess distortion", "unexplained", "decode", "FP16 gate")


def compression_rows(checkpoint: str, *, images: int) -> list[tuple[str, ...]]:
    """FP32, FP16 as we trace it, and FP32 compressed by OpenVINO: a line of the table each."""
    opened = VqraeTokenizer(open_checkpoint(checkpoint))
    photographs = parity_images(None, opened.model.size, images)
    with tempfile.TemporaryDirectory() as folder, BundleBuilder(opened, photographs, lambda _: None) as builder:
        bundles = {
            precision: Path(builder.build(target("openvino", precision), Path(folder), allow_gate_failure=True).bundle)
            for precision in ("fp32", "fp16")
        }
        rows = [
            _row("FP32", bundles["fp32"], builder),
            _row("FP16, scores in int16 and FP32: `--precision fp16`", bundles["fp16"], builder),
        ]
        _compress(bundles["fp32"])
        return [*rows, _row("FP16 by OpenVINO's own compression, scores too", bundles["fp32"], builder)]


def _compress(bundle: Path) -> None:
    """Give a bundle's FP32 graphs FP16 weights, as `openvino.save_model` does by default."""
    manifest = Bundle.open(bundle).manifest
    for graph in manifest.graphs.values():
        path = bundle / graph.file
        compressed = path.with_name(f"compressed-{path.name}")
        openvino.save_model(openvino.Core().read_model(path), compressed, compress_to_fp16=True)
        for suffix in (".xml", ".bin"):
            compressed.with_suffix(suffix).replace(path.with_suffix(suffix))
    write_manifest(bundle, manifest.model_copy(update={"files": listed_files(bundle)}))


def _row(name: str, bundle: Path, builder: BundleBuilder) -> tuple[str, ...]:
    with Tokenizer.load(bundle) as tokenizer:
        figures, size = gather_evidence(tokenizer, builder.reference).figures, tokenizer.bundle.graph_bytes
    assert figures is not None, "it was executed"  # noqa: S101
    return (
        name,
        significant(size / 1e6),
        percent(figures.token_agreement),
        tiny_percent(figures.excess_distortion),
        str(figures.unexplained_mismatches),
        decibels(figures.decode_psnr_db),
        "fail" if misses(judge_parity(figures, PRECISIONS["fp16"].limits)) else "pass",
    )


def main() -> None:
    """Command line; writes a Markdown page."""
    parser = StudyParser("fp16_compression", __doc__)
    parser.add_checkpoint()
    parser.add_argument("--images", type=int, default=DEFAULT_COUNT, help="photographs to compare on")
    parser.add_output()
    options = parser.parse_args()
    rows = compression_rows(options.checkpoint, images=options.images)
    write_page(options.output, TITLE + table(TITLES, rows, figures=6), options.module)


if __name__ == "__main__":
    run_as_program(main)
