"""Our INT8 against NNCF's, of the same FP32 graph on OpenVINO: by its defaults for transformers, and changed.

    python -m vqrae.benchmarks.studies.nncf_comparison assets/vqrae-tiny --calibration DIR -o docs/explanation/nncf.md

Covered: the graph `encode`, on images that it was not calibrated on, on this machine's processor. Not covered: NNCF's
accuracy control, and weights alone.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vqrae.benchmarks.report.figures import percent, tiny_percent
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.studies.study import StudyParser, table
from vqrae.calibration.images import LEAST_IMAGES, CalibrationImages, calibration_images
from vqrae.calibration.layers import Product
from vqrae.calibration.plan import PrecisionPlan
from vqrae.calibration.trials import Trial
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import format_of
from vqrae.export.parity_images import DEFAULT_COUNT, parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.export.trials import GraphTrials
from vqrae.runtimes.backends.openvino_library import openvino
from vqrae.runtimes.errors import run_as_program

os.environ.setdefault("NNCF_CI", "1")  # or it would tell its makers of each use
import nncf
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

TITLE = """# Our INT8 against NNCF's

The graph `encode` in FP32, quantized for OpenVINO by NNCF with its defaults for transformers, then with one thing
changed at a time, then with all of them; below it, by our Q/DQ: with queries × keys in float, as other runtimes have
them by default, and in INT8, as NNCF has them too. The same calibration images and the same photographs to measure on;
times in turns with FP32, at batch 1.

"""
TITLES = ("INT8 by", "excess distortion", "tokens", "time of FP32's")
SCORES, VALUES = "scores", "weights_values"
"""Last parts of the names of the layers that may be left in float; NNCF leaves the second so by itself."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to call NNCF."""

    name: str
    alpha: float | None = None
    """SmoothQuant's; None is NNCF's own."""
    minmax: bool = False
    """Ranges that cover all that was seen, instead of NNCF's own."""
    floats: tuple[str, ...] = ()
    """Kinds of layers that stay float."""


VARIANTS = (
    Variant(name="NNCF's defaults for transformers"),
    Variant(name="SmoothQuant's α 0.5", alpha=0.5),
    Variant(name="ranges over all that was seen", minmax=True),
    Variant(name="scores in float", floats=(SCORES,)),
    Variant(name="attention weights × values in float", floats=(VALUES,)),
    Variant(name="scores and attention weights × values in float", floats=(SCORES, VALUES)),
    Variant(name="all of these", alpha=0.5, minmax=True, floats=(SCORES, VALUES)),
)


def comparison_rows(builder: BundleBuilder, calibration: CalibrationImages) -> Iterator[tuple[str, ...]]:
    """NNCF's variants, and ours: the cells of a line of the table each."""
    calibrated = builder.sources.int8
    plan = PrecisionPlan.default(calibrated.all_products)
    path, spec = calibrated.float_graph("encode")
    products = calibrated.products["encode"]
    with (
        GraphTrials(calibrated, plan, "encode", "openvino", builder.reference) as trials,
        tempfile.TemporaryDirectory() as folder,
    ):
        for variant in VARIANTS:
            quantized = Path(folder) / "encode.xml"
            model = _quantized(path, products, calibration, variant)
            openvino.save_model(model, quantized, compress_to_fp16=False)
            yield _cells(variant.name, trials.measured(quantized, spec, ()))
        for name, also in (("ours, queries × keys in float", ()), ("ours", format_of("openvino").int8_too)):
            ours = PrecisionPlan.default(products, also=also)
            yield _cells(name, trials.make({product.layer for product in ours.int8(products)}))


def _quantized(
    path: Path, products: Collection[Product], calibration: CalibrationImages, variant: Variant
) -> openvino.Model:
    ignored = [product.node for product in products if product.layer.rpartition(".")[2] in variant.floats]
    parameters = nncf.AdvancedQuantizationParameters()
    if variant.alpha is not None:
        parameters.smooth_quant_alphas.matmul = variant.alpha
    if variant.minmax:
        parameters.activations_range_estimator_params = RangeEstimatorParametersSet.MINMAX
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        openvino.Core().read_model(path),
        nncf.Dataset([image[None] for image in calibration.images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration.images),
        ignored_scope=nncf.IgnoredScope(names=ignored),
        advanced_parameters=parameters,
    )


def _cells(name: str, trial: Trial) -> tuple[str, ...]:
    """Excess distortion, agreement, and the time in times of FP32's."""
    time = f"{trial.relative_time:.2f} ({trial.relative_time_low:.2f} to {trial.relative_time_high:.2f})"
    return (name, tiny_percent(trial.damage), percent(trial.token_agreement), time)


def main() -> None:
    """Command line; writes a Markdown page."""
    parser = StudyParser("nncf_comparison", __doc__)
    parser.add_checkpoint()
    parser.add_argument("--calibration", type=Path, required=True, help="images: a folder, .tar, .parquet or .npy")
    parser.add_argument("--calibration-images", type=int, default=LEAST_IMAGES, help="how many of them")
    parser.add_argument("--images", type=int, default=DEFAULT_COUNT, help="photographs to compare on")
    parser.add_output()
    options = parser.parse_args()
    opened = VqraeTokenizer(open_checkpoint(options.checkpoint))
    size = opened.model.size
    calibration = calibration_images(options.calibration, size, count=options.calibration_images)
    with BundleBuilder(opened, parity_images(None, size, options.images), lambda _: None, calibration) as builder:
        rows = list(comparison_rows(builder, calibration))
    write_page(options.output, TITLE + table(TITLES, rows, figures=3), options.module)


if __name__ == "__main__":
    run_as_program(main)
