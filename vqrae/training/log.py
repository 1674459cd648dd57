"""The log of a phase: JSON lines for programs, TensorBoard for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from vqrae.runtimes.staging import staged_file

LOG_FILE, SKIPPED_FILE, TENSORBOARD_FOLDER = "log.jsonl", "skipped.txt", "tensorboard"


class RunLog:
    """Appends to `log.jsonl` and to the events in `tensorboard/`; `skipped.txt` names unreadable images."""

    def __init__(self, folder: Path, start: int) -> None:
        """Go on after step `start`; what an earlier run logged beyond it was not saved, and is dropped."""
        path = folder / LOG_FILE
        if path.exists():
            kept = [line for line in path.read_text().splitlines(keepends=True) if _logged_step(line) <= start]
            with staged_file(path) as staging:
                staging.write_text("".join(kept))
        self._skipped = folder / SKIPPED_FILE
        self._lines = path.open("a")
        self._events = SummaryWriter(folder / TENSORBOARD_FOLDER, purge_step=start + 1)

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        self._lines.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def skip(self, images: Mapping[str, str]) -> None:
        """Name the images that could not be read, each once: name -> reason."""
        known = set(self._skipped.read_text().splitlines()) if self._skipped.exists() else set()
        lines = {" ".join(f"{name}: {reason}".split()) for name, reason in images.items()}
        if lines - known:
            with staged_file(self._skipped) as staging:
                staging.write_text("".join(f"{line}\n" for line in sorted(lines | known)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()


def _logged_step(line: str) -> int:
    """The step of a line; one that a kill cut off counts as beyond any."""
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return 2**63
