"""What studies share: their command line, tables, the reading of a page, and figures over seeds.

The reading stands between two markers; it is written by hand, and kept when the page is written again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vqrae.benchmarks.report.figures import NOTHING
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.machine import this_machine

READING, END_OF_READING = "<!-- reading: written by hand, kept by the command -->", "<!-- end of the reading -->"
NO_READING = f"{READING}\n\n{END_OF_READING}"
LINE = 120
"""Characters in a line of a page, but for tables."""


class StudyParser(argparse.ArgumentParser):
    """A study's command line. What it parses has the study's module as `module`, for the last line of its page."""

    def __init__(self, name: str, doc: str | None) -> None:
        """Of the module `name` in this folder, whose docstring begins with what it is about."""
        module = f"{__package__}.{name}"
        super().__init__(prog=f"python -m {module}", description=(doc or "").splitlines()[0])
        self.set_defaults(module=module)

    def add_checkpoint(self) -> None:
        """What is studied."""
        self.add_argument("checkpoint", help="a folder, or a preset's name for random weights")

    def add_output(self, about: str = "Markdown file", *, required: bool = True) -> None:
        """Where the page is written."""
        self.add_argument("-o", "--output", type=Path, required=required, help=about)

    def add_threads(self) -> None:
        """CPU threads that a runtime is given."""
        self.add_argument("--threads", type=int, default=this_machine().cores)

    def add_work(self, default: Path | None = None) -> None:
        """The folder of a study that can be gone on with; see `runner`."""
        about = "folder of results and saved states, to go on from" + ("" if default else "; if none is given, anew")
        self.add_argument("--work", type=Path, default=default, help=about)

    def add_workers(self) -> None:
        """Processes that share the work."""
        self.add_argument("--workers", type=int, default=2, help="processes of one thread each")


def check_least(option: str, value: int, least: int, reason: str = "") -> None:
    """Refuse a number that is too small.

    Raises:
        UsageError: it is below `least`.
    """
    if value < least:
        raise UsageError(option, got=str(value), expected=f"at least {least}{reason}")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, figures: int = 0) -> str:
    """A Markdown table whose last columns are figures, which stand at the right."""
    rule = ["---"] * (len(titles) - figures) + ["--:"] * figures
    return "".join(f"| {' | '.join(line)} |\n" for line in [titles, rule, *rows])


def wrapped(text: str) -> str:
    """Paragraphs, with a page's line ends."""
    return "\n\n".join(textwrap.fill(part, LINE, break_on_hyphens=False) for part in text.split("\n\n"))


def reading_of(path: Path) -> str:
    """What people wrote into a page, markers included; only the markers if there is no page.

    Raises:
        UsageError: a page without them, which would be lost.
    """
    if not path.exists():
        return NO_READING
    text = path.read_text(encoding="utf-8")
    begin, end = text.find(READING), text.find(END_OF_READING)
    if not 0 <= begin < end:
        expected, remedy = f"`{READING}` and `{END_OF_READING}` in it", "put them in, or give another file"
        raise UsageError(str(path), got="a page without a place for the reading", expected=expected, remedy=remedy)
    return text[begin : end + len(END_OF_READING)]


class Spread(NamedTuple):
    """A figure over seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of the seeds' values, n − 1 in the denominator; None of one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of at least one value; None of none."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


Written = Callable[[Spread | None], str]


def fixed(decimals: int, *, factor: float = 1.0, signed: bool = False) -> Written:
    """Writes `12.3 ± 0.4` with so many decimals, of `factor` times the figure."""
    sign = "+" if signed else ""

    def write(spread: Spread | None) -> str:
        if spread is None or not math.isfinite(spread.mean):
            return NOTHING
        mean = f"{spread.mean * factor:{sign},.{decimals}f}"
        return mean if spread.deviation is None else f"{mean} ± {spread.deviation * factor:,.{decimals}f}"

    return write
