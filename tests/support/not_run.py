"""Hooks of pytest: a run ends with one line that says how many tests were not run, and why. It works with xdist too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

DESELECTED = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    if items:
        stash = items[0].config.stash
        stash[DESELECTED] = stash.get(DESELECTED, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Only the processes that run tests know what was deselected; each of them deselects the same."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["deselected"] = session.config.stash.get(DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    told = getattr(node, "workeroutput", {}).get("deselected", 0)  # one that died told nothing
    node.config.stash[DESELECTED] = max(told, node.config.stash.get(DESELECTED, 0))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    """What was not run must be seen, and why: the last line before the counts."""
    yield
    reports = terminalreporter.getreports("skipped")
    skipped = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if config.stash.get(DESELECTED, 0):
        chosen = {"-m": config.option.markexpr, "-k": config.option.keyword, "--deselect": config.option.deselect}
        words = " ".join(f"{option} {value!r}" for option, value in chosen.items() if value)
        skipped[f"deselected by {words}"] = config.stash[DESELECTED]
    reasons = "; ".join(f"{reason}: {count}" for reason, count in skipped.most_common())
    terminalreporter.write_line(f"not run: {skipped.total()}{reasons and f' ({reasons})'}")
