"""What pages on ways to INT8 have in common: their options, a calibrated builder, and the cells of a trial."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqrae.benchmarks.report.figures import percent, tiny_percent
from vqrae.calibration.images import LEAST_IMAGES, CalibrationImages, calibration_images
from vqrae.calibration.trials import Trial
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.parity_images import DEFAULT_COUNT, parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer


def int8_parser(module: str, about: str) -> argparse.ArgumentParser:
    """Of a module that calibrates a checkpoint and writes a Markdown page."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("checkpoint", help="a folder, or a preset's name for random weights")
    parser.add_argument("--calibration", type=Path, required=True, help="images: a folder, .tar, .parquet or .npy")
    parser.add_argument("--calibration-images", type=int, default=LEAST_IMAGES, help="how many of them")
    parser.add_argument("--images", type=int, default=DEFAULT_COUNT, help="photographs to compare on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file")
    return parser


@contextmanager
def calibrated_builder(
    checkpoint: str, source: Path, *, images: int, count: int
) -> Iterator[tuple[BundleBuilder, CalibrationImages]]:
    """What builds bundles of a checkpoint, and the images that it calibrates on.

    Args:
        checkpoint: a folder, or a preset's name for random weights.
        source: images to calibrate on.
        images: photographs to compare on.
        count: images to calibrate on.

    Raises:
        CheckpointError: the checkpoint is invalid.
        DataError: there are too few images.
    """
    opened = VqraeTokenizer(open_checkpoint(checkpoint))
    photographs = parity_images(None, opened.model.size, images)
    calibration = calibration_images(source, opened.model.size, count=count)
    with BundleBuilder(opened, photographs, lambda _: None, calibration) as builder:
        yield builder, calibration


def trial_row(names: tuple[str, ...], trial: Trial) -> str:
    """A line of a Markdown table: names, excess distortion, agreement, and the time in times of FP32's."""
    time = f"{trial.relative_time:.2f} ({trial.relative_time_low:.2f} to {trial.relative_time_high:.2f})"
    cells = (*names, tiny_percent(trial.damage), percent(trial.token_agreement), time)
    return f"| {' | '.join(cells)} |\n"
