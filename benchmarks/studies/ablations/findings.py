"""The figures of the ablations' runs by table, row and name: over seeds, a mean and a standard deviation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vqrae.benchmarks.figures import NOTHING
from vqrae.benchmarks.studies.ablations.grid import Cell, Experiment, Scale
from vqrae.benchmarks.studies.ablations.runs import RunResult


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


class Findings:
    """What the finished runs say."""

    def __init__(self, scale: Scale, results: Mapping[str, RunResult]) -> None:
        """`results` by the run's key; some may be missing."""
        self.scale = scale
        self.cells = scale.cells()
        self.results = results

    def rows(self, experiment: Experiment) -> list[tuple[str, ...]]:
        """The rows of a table, in order."""
        return list(dict.fromkeys(cell.row for cell in self._of(experiment)))

    def values(self, experiment: Experiment, row: tuple[str, ...], figure: str) -> list[float]:
        """One value for each seed whose run is finished and has the figure."""
        return [figures[figure] for figures in self._figures(experiment, row) if figure in figures]

    def spread(self, experiment: Experiment, row: tuple[str, ...], figure: str) -> Spread | None:
        """Over the seeds."""
        return Spread.of(self.values(experiment, row, figure))

    def change(self, experiment: Experiment, row: tuple[str, ...], before: str, after: str) -> Spread | None:
        """Of the difference between two figures of the same run."""
        return Spread.of([f[after] - f[before] for f in self._figures(experiment, row) if before in f and after in f])

    def encoder(self, figure: str) -> Spread | None:
        """Of the pretrained encoders that the runs start from."""
        runs = {run.key for run in (cell.run.encoder_run for cell in self.cells) if run is not None}
        return Spread.of([self.results[key].figures[figure] for key in sorted(runs) if key in self.results])

    def _of(self, experiment: Experiment) -> list[Cell]:
        return [cell for cell in self.cells if cell.experiment == experiment]

    def _figures(self, experiment: Experiment, row: tuple[str, ...]) -> list[dict[str, float]]:
        keys = [cell.run.key for cell in self._of(experiment) if cell.row == row]
        return [self.results[key].figures for key in keys if key in self.results]
