"""What sealed bytes cost: fresh starts of this checkout, of this one in memory, and of another checkout, in turns.

    git worktree add /tmp/before dfac1bf
    python -m vqrae.benchmarks.studies.sealing_cost /tmp/base-onnx/good /tmp/base-openvino/good --against /tmp/before

Each start is a process: import, load, and the answer to one image. Linux only. Files are as warm in the disk cache as
the start before left them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from vqrae.benchmarks.measure.conditions import installed_versions
from vqrae.benchmarks.studies.study import StudyParser, check_least, table
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable, run_as_program
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest

FLOORS = ("runtimes", "calibration", "export", "benchmarks")
LIMITS = {"disk": (1.15, 1.05, 1.05), "memory": (1.3, 2.1, 2.1)}
"""Sealing -> most that a start, the peak and the private memory may be in times of the other checkout's."""
TITLES = ("start", "peak RSS", "anonymous + shared")
UNITS = ("s", "MB", "MB")
MIN_ROUNDS = 3
# Nothing of this file is imported by the processes: the other checkout does not have it.
START = """
import json, sys
import numpy as np
import vqrae, vqrae.runtimes
path, options = sys.argv[1], json.loads(sys.argv[2])
tokenizer = vqrae.load(path, threads=1, **options)
tokenizer.encode(np.zeros((1, *tokenizer.image_size, 3), np.uint8))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kilobytes = {name: int(status[name].split()[0]) for name in ("VmHWM", "RssAnon", "RssShmem")}
print(json.dumps({"from": vqrae.runtimes.__file__, **kilobytes}), flush=True)
"""


@dataclass(frozen=True)
class Way:
    """One of those that are compared."""

    name: str
    checkout: Path
    options: dict[str, str]


Figures = tuple[float, float, float]
"""Seconds, peak MB, private MB."""


def start(way: Way, view: Path, bundle: Path) -> Figures:
    """Start once.

    Raises:
        RuntimeUnavailable: the process failed, or another checkout's code ran.
    """
    launched = time.monotonic()
    process = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-P", "-c", START, str(bundle), json.dumps(way.options)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(view)},
        cwd=view,
    )
    seconds = time.monotonic() - launched
    if process.returncode:
        words = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeUnavailable(f"a start of {way.name}", got=words[-1], expected="an answer")
    said = json.loads(process.stdout.splitlines()[-1])
    if not Path(said["from"]).resolve().is_relative_to(way.checkout.resolve()):
        raise RuntimeUnavailable(f"a start of {way.name}", got=said["from"], expected=f"code of {way.checkout}")
    return seconds, said["VmHWM"] * 1.024e-3, (said["RssAnon"] + said["RssShmem"]) * 1.024e-3


def nested_view(checkout: Path, folder: Path) -> Path:
    """A folder in which the packages of a checkout nest, as an import without a mapping needs them."""
    (folder / "vqrae").mkdir(parents=True)
    for path in (*(checkout / "vqrae").iterdir(), *(checkout / floor for floor in FLOORS)):
        (folder / "vqrae" / path.name).symlink_to(path.resolve())
    return folder


def compared(bundle: Path, ways: Sequence[Way], views: Sequence[Path], rounds: int) -> list[list[Figures]]:
    """Each way's figures, from rounds in which each has its turn; the first round only warms the disk cache."""
    found: list[list[Figures]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for way, view, figures in zip(ways, views, found, strict=True):
            one = start(way, view, bundle)
            if number:
                figures.append(one)
    return found


def rows(name: str, ways: Sequence[Way], found: Sequence[Sequence[Figures]]) -> list[list[str]]:
    """Cells for each way: medians, and in times of the last way the median over rounds and quartiles."""
    lines = []
    for way, figures in zip(ways, found, strict=True):
        cells = []
        for column, unit in enumerate(UNITS):
            ratios = [one[column] / other[column] for one, other in zip(figures, found[-1], strict=True)]
            low, middle, high = quantiles(ratios, n=4, method="inclusive")
            value = median(one[column] for one in figures)
            cells += [f"{value:.3g} {unit}", f"{middle:.2f}× ({low:.2f} to {high:.2f})"]
        lines.append([name, way.name, *cells])
    return lines


def misses(name: str, ways: Sequence[Way], found: Sequence[Sequence[Figures]]) -> list[str]:
    """What is over its limit; medians of ratios, round by round."""
    over = []
    for way, figures in zip(ways, found, strict=True):
        for column, limit in enumerate(LIMITS.get(way.name, ())):
            ratio = median(one[column] / other[column] for one, other in zip(figures, found[-1], strict=True))
            if ratio > limit:
                over.append(f"{name} {way.name}: {TITLES[column]} {ratio:.2f}×, more than {limit}×")
    return over


def main() -> None:
    """The command line."""
    parser = StudyParser("sealing_cost", __doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--against", type=Path, required=True, help="a checkout from before")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    check_least("--rounds", given.rounds, MIN_ROUNDS)
    here = Path(__file__).resolve().parents[2]
    ways = [Way("disk", here, {}), Way("memory", here, {"sealing": "memory"}), Way("before", given.against, {})]
    over, lines, load = list[str](), list[list[str]](), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="vqrae-cost-") as folder:
        views = [nested_view(way.checkout, Path(folder) / way.name) for way in ways]
        for bundle in given.bundles:
            name = read_manifest(bundle / MANIFEST_FILE).name
            found = compared(bundle.resolve(), ways, views, given.rounds)
            lines += rows(name, ways, found)
            over += misses(name, ways, found)
    titles = ("bundle", "sealing", *(part for title in TITLES for part in (title, "in times of before")))
    print(table(titles, lines))
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"{given.rounds} rounds; load average {load:.1f} before them. {this_machine()}.\n\n{versions}.")
    if over:
        raise GateFailure("sealed bytes", got="; ".join(over), expected="starts within their limits")


if __name__ == "__main__":
    run_as_program(main)
