"""What lies in the folder that private copies are made in: who may look into it, and what is left there."""

from __future__ import annotations

import threading
from pathlib import Path

OTHERS = 0o077
PERIOD_S = 0.005
PREFIX = "vqrae-sealed-"


class FolderWatch:
    """Looks again and again, while the block runs, at the folders that hold files."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._modes: set[int] = set()
        self._seen: set[Path] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> FolderWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_private(self) -> bool:
        """Whether nobody else could read any of them."""
        return not any(mode & OTHERS for mode in self._modes)

    def __str__(self) -> str:
        modes = ", ".join(f"{mode:04o}" for mode in sorted(self._modes)) or "none"
        left = sum(path.is_file() for path in self._root.rglob("*"))
        return f"{len(self._seen)} private folders seen, modes {modes}, {left} files left"

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            try:
                for path in self._root.rglob("*"):
                    if path.is_file():
                        # What lies deeper in a private folder is as closed as that is.
                        private = next((it for it in path.parents if it.name.startswith(PREFIX)), path.parent)
                        self._modes.add(private.stat().st_mode & 0o777)
                        self._seen.add(private)
            except FileNotFoundError:  # it was deleted meanwhile, as it should be; the next look begins anew
                continue
