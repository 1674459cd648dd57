"""What batch and image size cost: latency and peak memory of a checkpoint's bundles, with the fitted growth.

    python -m vqrae.benchmarks.studies.growth base --format onnx --format openvino -o docs/figures/growth.md

Covered: one graph on the CPU; the batch grows at the trained size, the image's side at batch 1, and on each of the two
axes all runtimes and all points take turns in the same rounds. Not covered: fidelity at other sizes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vqrae.benchmarks.candidates.candidate import GRAPHS, BundleCandidate, Graph, runtime_title
from vqrae.benchmarks.measure.conditions import Contention
from vqrae.benchmarks.measure.footprint import measure_footprint
from vqrae.benchmarks.rows import count_of
from vqrae.benchmarks.studies.growth_page import write_growth
from vqrae.benchmarks.studies.growth_points import Axis, Point
from vqrae.checkpoint import open_config
from vqrae.export.build import BundleBuilder, bundle_name
from vqrae.export.formats import Target, target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer, tokenizer_name
from vqrae.resize import open_at_size
from vqrae.runtimes.errors import UsageError, run_as_program
from vqrae.runtimes.latency import MIN_ROUNDS, interleave, latency
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.machine import this_machine

FORMATS = ("onnx", "openvino")
BATCHES = (1, 2, 4, 8, 16, 32)
STEPS = 4
"""From the trained size to twice as much."""


@dataclass(frozen=True, kw_only=True)
class Meter:
    """How bundles are measured."""

    graph: Graph
    threads: int
    rounds: int
    contention: Contention

    def points(self, axis: Axis, cases: Sequence[tuple[Path, int]]) -> list[Point]:
        """Measure bundles, each at a batch size: memory in fresh processes, then latency, all in the same rounds.

        Raises:
            UsageError: too few rounds.
            RuntimeUnavailable: a bundle does not run here.
        """
        peaks = [self._peak_mb(path, batch) for path, batch in cases]
        with ExitStack() as stack:
            paths = {path for path, _ in cases}
            opened = {
                path: stack.enter_context(BundleCandidate(path, LoadOptions(threads=self.threads))) for path in paths
            }
            calls: dict[str, Callable[[], object]] = {
                str(number): opened[path].call(self.graph, batch) for number, (path, batch) in enumerate(cases)
            }
            with self.contention.watch():
                durations = interleave(calls, rounds=self.rounds, warmup=1).values()
        found = []
        for (path, batch), seconds, peak_mb in zip(cases, durations, peaks, strict=True):
            manifest = opened[path].tokenizer.manifest
            label = f"{runtime_title(manifest.runtime.name)} {manifest.precision.title}"
            side, quantiles = manifest.preprocessing.height, latency(seconds)
            found.append(Point(axis=axis, label=label, batch=batch, side=side, latency=quantiles, peak_mb=peak_mb))
        return found

    def _peak_mb(self, path: Path, batch: int) -> float:
        print(f"memory of {path.name} at batch {batch}", flush=True)
        launch = (str(path),)
        return measure_footprint(launch, self.graph, threads=self.threads, starts=1, batch=batch).peak_rss_mb


def default_sides(trained: int, patch: int) -> tuple[int, ...]:
    """From the trained size to twice as much, in pixels, in steps that patches tile."""
    step = max(round(trained / STEPS / patch), 1) * patch
    return tuple(range(trained, 2 * trained + 1, step))


def built(checkpoint: str, targets: Sequence[Target], side: int, folder: Path) -> list[Path]:
    """Export for square images what is not in the folder yet; the bundles, in the order of the targets.

    Raises:
        UsageError: patches do not tile the side.
        CheckpointError: the checkpoint is invalid.
    """
    size, config = (side, side), open_config(checkpoint)
    paths = [folder / bundle_name(tokenizer_name(config, size), wanted) for wanted in targets]
    missing = [wanted for wanted, path in zip(targets, paths, strict=True) if not path.exists()]
    if missing:
        opened = VqraeTokenizer(open_at_size(checkpoint, size))
        with BundleBuilder(opened, parity_images(None, size, 1), lambda step: print(step, flush=True)) as builder:
            for wanted in missing:
                builder.build(wanted, folder, allow_gate_failure=True)  # only its cost is told here
    return paths


def grown(
    checkpoint: str,
    targets: Sequence[Target],
    *,
    batches: Sequence[int],
    sides: Sequence[int],
    meter: Meter,
    folder: Path,
) -> list[Point]:
    """Every target at every batch size, and at every image size; bundles are built in the folder, where they stay.

    Raises:
        UsageError: an axis has fewer than two values, or patches do not tile a size.
        CheckpointError: the checkpoint is invalid.
        RuntimeUnavailable: a runtime is not installed.
    """
    for name, values in (("batch sizes", batches), ("image sizes", sides)):
        if len({*values}) < 2:
            raise UsageError(name, got=", ".join(map(str, values)), expected="two different ones, for a growth")
    trained = open_config(checkpoint).image_size
    bundles = {side: built(checkpoint, targets, side, folder) for side in sorted({trained, *sides})}
    by_batch = [(path, batch) for batch in sorted({*batches}) for path in bundles[trained]]
    by_side = [(path, 1) for side in sorted({*sides}) for path in bundles[side]]
    return [*meter.points("batch", by_batch), *meter.points("side", by_side)]


def main() -> None:
    """Command line; writes the page and its plot."""
    options = _parser().parse_args()
    if options.rounds < MIN_ROUNDS:
        raise UsageError("--rounds", got=str(options.rounds), expected=f"at least {MIN_ROUNDS}")
    config = open_config(options.checkpoint)
    sides = options.imgsz or default_sides(config.image_size, config.decoder.patch_size)
    targets = [target(name, options.precision) for name in options.format or FORMATS]
    meter = Meter(graph=options.graph, threads=options.threads, rounds=options.rounds, contention=Contention())
    with tempfile.TemporaryDirectory(prefix="vqrae-growth-") as temporary:
        folder = options.bundles or Path(temporary)
        batches = options.batch or BATCHES
        found = grown(options.checkpoint, targets, batches=batches, sides=sides, meter=meter, folder=folder)
    write_growth(
        options.output,
        found,
        title=f"`{options.graph}` of {config.name} on {count_of(options.threads, 'thread')}",
        rounds=options.rounds,
        contention=meter.contention.share,
        module="vqrae.benchmarks.studies.growth",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.studies.growth", description=__doc__.splitlines()[0]
    )
    parser.add_argument("checkpoint", help="a folder, or a preset's name for random weights")
    parser.add_argument("--format", choices=FORMATS, action="append", help="both if not given")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--graph", choices=GRAPHS, default="encode")
    parser.add_argument("--batch", type=int, action="append", help="1, 2, 4, 8, 16 and 32 if not given")
    parser.add_argument("--imgsz", type=int, action="append", help="pixels; the trained size to twice it if not given")
    parser.add_argument("--threads", type=int, default=this_machine().cores)
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each point")
    parser.add_argument("--bundles", type=Path, help="folder that keeps the bundles; those in it are not built again")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file; the plot lies beside it")
    return parser


if __name__ == "__main__":
    run_as_program(main)
