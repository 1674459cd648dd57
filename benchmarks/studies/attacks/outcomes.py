"""What came of attacks on sealed bytes, counted by kind and moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

RIGHT, ERROR, WRONG = "right", "error", "WRONG"
"""The bundle's answers; an error of ours, or a status that is one; other answers. Any other outcome names itself."""


class Outcomes:
    """Counts of outcomes."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, kind: str, moment: str, outcome: str, count: int = 1) -> None:
        """Count one."""
        self._counts.setdefault((kind, moment), Counter())[outcome] += count

    @property
    def total(self) -> Counter[str]:
        """Over all kinds and moments."""
        return sum(self._counts.values(), Counter[str]())

    @property
    def fine(self) -> bool:
        """Whether there were right answers and errors only, and right answers at all."""
        return {RIGHT} <= set(self.total) <= {RIGHT, ERROR}

    def table(self, moments: Sequence[str]) -> Iterator[str]:
        """Kinds by moments, in Markdown; `ok` counts right answers and errors."""
        yield "| " + " | ".join(["attack", *moments]) + " |"
        yield "|-" * (len(moments) + 1) + "|"
        for kind in sorted({kind for kind, _ in self._counts}):
            yield "| " + " | ".join([kind, *(self._cell(kind, moment) for moment in moments)]) + " |"

    def _cell(self, kind: str, moment: str) -> str:
        found = self._counts.get((kind, moment), Counter())
        bad = [f"{count} {outcome}" for outcome, count in found.items() if outcome not in (RIGHT, ERROR)]
        fine = found[RIGHT] + found[ERROR]
        return ", ".join([*bad, *([f"{fine} ok"] if fine else [])])
