"""The log of a phase: JSON lines for programs, TensorBoard for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from vqrae.runtimes.errors import storage_error
from vqrae.runtimes.staging import write_output

LOG_FILE, SKIPPED_FILE, TENSORBOARD_FOLDER = "log.jsonl", "skipped.txt", "tensorboard"


class RunLog:
    """Appends to `log.jsonl` and to the events in `tensorboard/`; `skipped.txt` names unreadable images."""

    def __init__(self, folder: Path, start: int) -> None:
        """Go on after step `start`; what an earlier run logged beyond it was not saved, and is dropped."""
        path = folder / LOG_FILE
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_output(path, "".join(line for line in lines if _logged_step(line) <= start), lock=False)
        self._skipped = folder / SKIPPED_FILE
        self._lines = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(folder / TENSORBOARD_FOLDER, purge_step=start + 1)

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        try:
            self._lines.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")
            self._lines.flush()
        except OSError as error:
            raise storage_error(self._lines.name, error) from error
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def keep(self) -> None:
        """Have the disk hold what was logged; TensorBoard's events can be made again from it."""
        os.fsync(self._lines.fileno())

    def skip(self, images: Mapping[str, str]) -> None:
        """Name the images that could not be read, each once: name -> reason."""
        text = self._skipped.read_text(encoding="utf-8", errors="replace") if self._skipped.exists() else ""
        known = set(text.splitlines())
        lines = {" ".join(f"{name}: {reason}".split()) for name, reason in images.items()}
        if lines - known:
            text = "".join(f"{line}\n" for line in sorted(lines | known))
            write_output(self._skipped, text.encode(errors="replace"), lock=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()


def _logged_step(line: str) -> int:
    """The step of a line; one that a kill cut off, or that is damaged, counts as beyond any."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return 2**63
