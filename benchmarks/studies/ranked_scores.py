"""Scores of all codes in float, against scores in INT8 whose best are ranked again in float: tokens, distortion, time.

    python -m vqrae.benchmarks.studies.ranked_scores assets/vqrae-tiny --calibration photographs -o docs/scores.md

Covered: the graph `encode` by the default plan, with either kind of scores, at batch 1, on ONNX Runtime and OpenVINO on
this machine's processor. Not covered: other slices and other numbers of candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vqrae.benchmarks.page import write_page
from vqrae.benchmarks.studies.int8_trials import calibrated_builder, int8_parser, trial_row
from vqrae.calibration.plan import SCORES, Plan
from vqrae.export.build import BundleBuilder
from vqrae.export.trials import GraphTrials
from vqrae.runtimes.errors import run_as_program

MODULE = "vqrae.benchmarks.studies.ranked_scores"
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
TITLE = """# Scores in float, and ranked again

The graph `encode` at INT8 by the default plan: once with its scores in float, once with all scores in INT8 and the best
of them scored again in float. Times are in turns with FP32, at batch 1.

"""
HEADER = "| {name} | scores | excess distortion | tokens | of FP32's time |\n|---|---|--:|--:|--:|\n"


def score_rows(builder: BundleBuilder) -> Iterator[str]:
    """Two lines of the table for each runtime."""
    plan = Plan.default(builder.calibrated.products)
    layers = {layer for layer, precision in plan.layers.items() if precision == "int8"} - {SCORES}
    for runtime, title in RUNTIMES.items():
        with GraphTrials(builder.calibrated, plan, "encode", runtime, builder.reference) as trials:
            for name, int8 in (("float", layers), ("INT8, ranked again", layers | {SCORES})):
                yield trial_row((title, name), trials.make(int8))


def main() -> None:
    """Command line; writes a Markdown page."""
    options = int8_parser(MODULE, __doc__.splitlines()[0]).parse_args()
    header = HEADER.format(name=Path(options.checkpoint).name)
    with calibrated_builder(
        options.checkpoint, options.calibration, images=options.images, count=options.calibration_images
    ) as (builder, _):
        write_page(options.output, TITLE + header + "".join(score_rows(builder)), MODULE)


if __name__ == "__main__":
    run_as_program(main)
