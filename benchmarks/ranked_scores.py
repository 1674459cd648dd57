"""Scores of all codes in float, against scores in INT8 whose best are ranked again in float: tokens, distortion, time.

    python -m vqrae.benchmarks.ranked_scores assets/vqrae-tiny --calibration photographs/calibration -o docs/scores.md

Covered: the graph `encode` by the default plan, with either kind of scores, at batch 1, on ONNX Runtime and OpenVINO on
this machine's processor. Not covered: other slices and other numbers of candidates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from vqrae.benchmarks.figures import percent, tiny_percent
from vqrae.benchmarks.page import write_page
from vqrae.calibration.images import LEAST_IMAGES, calibration_images
from vqrae.calibration.plan import SCORES, Plan
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.parity_images import DEFAULT_COUNT, parity_images
from vqrae.export.trials import GraphTrials
from vqrae.runtimes.errors import run_as_program

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
TITLE = """# Scores in float, and ranked again

The graph `encode` at INT8 by the default plan: once with its scores in float, once with all scores in INT8 and the best
of them scored again in float. Times are in turns with FP32, at batch 1.

"""
HEADER = "| {name} | scores | excess distortion | tokens | of FP32's time |\n|---|---|--:|--:|--:|\n"


def score_rows(checkpoint: str, source: Path, *, images: int, count: int) -> Iterator[str]:
    """Two lines of the table for each runtime."""
    opened = open_checkpoint(checkpoint)
    photographs = parity_images(None, opened.model.size, images)
    calibration = calibration_images(source, opened.model.size, count=count)
    with BundleBuilder(opened, photographs, lambda _: None, calibration) as builder:
        plan = Plan.default(builder.calibrated.products)
        layers = {layer for layer, precision in plan.layers.items() if precision == "int8"} - {SCORES}
        for runtime, title in RUNTIMES.items():
            with GraphTrials(builder.calibrated, plan, "encode", runtime, builder.reference) as trials:
                for name, int8 in (("float", layers), ("INT8, ranked again", layers | {SCORES})):
                    trial = trials.make(int8)
                    cells = (
                        title,
                        name,
                        tiny_percent(trial.damage),
                        percent(trial.token_agreement),
                        f"{trial.relative_time:.2f} ({trial.relative_time_low:.2f} to {trial.relative_time_high:.2f})",
                    )
                    yield f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Command line; writes a Markdown page."""
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.ranked_scores", description=__doc__.splitlines()[0]
    )
    parser.add_argument("checkpoint", help="a folder, or a preset's name for random weights")
    parser.add_argument("--calibration", type=Path, required=True, help="images: a folder, .tar, .parquet or .npy")
    parser.add_argument("--calibration-images", type=int, default=LEAST_IMAGES, help="how many of them")
    parser.add_argument("--images", type=int, default=DEFAULT_COUNT, help="photographs to compare on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file")
    options = parser.parse_args()
    rows = score_rows(options.checkpoint, options.calibration, images=options.images, count=options.calibration_images)
    header = HEADER.format(name=Path(options.checkpoint).name)
    write_page(options.output, TITLE + header + "".join(rows), "vqrae.benchmarks.ranked_scores")


if __name__ == "__main__":
    run_as_program(main)
