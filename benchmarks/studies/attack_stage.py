"""Where sealed bytes are attacked, what an attacker does there, and the count of what came of it. Linux only.

A bundle and an evil one stand beside each other, and are put back after each attack.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vqrae.benchmarks.studies.study import table
from vqrae.runtimes.archive import manifest_bytes
from vqrae.runtimes.manifest import MANIFEST_FILE, GraphSpec, read_manifest
from vqrae.runtimes.signature import make_keys, write_signature

EXCHANGE, HERE = 2, -100
"""renameat2's RENAME_EXCHANGE, and AT_FDCWD."""
TIME = 1_700_000_000
"""When every file was last changed, before an attack and after it."""
GROWTH = 2**26
PERIOD_S = (0.0005, 0.008)
"""Between two steps of an attack that goes there and back."""
RIGHT, ERROR, WRONG = "right", "error", "WRONG"
"""The bundle's answers; an error of ours, or a status that is one; other answers. Any other outcome names itself."""


class Stage:
    """The bundle under attack in `here`, the evil one in `there`; `reset` puts everything back as it was."""

    def __init__(self, good: Path, evil: Path, root: Path, chance: random.Random) -> None:
        self.chance = chance
        self.pristine = (good, evil)
        self.parents = (root / "here", root / "there")
        self.bundle, self.evil = (parent / "bundle" for parent in self.parents)
        self.cache, self.caches = root / "cache", (root / "good-cache", root / "evil-cache")
        self.public_key = make_keys(root / "owner")[1]
        self.touched: set[Path] = set()
        """Files of `here` whose content is not what it was, or that are no files by now."""
        self.manifest = read_manifest(good / MANIFEST_FILE)
        private_keys = (root / "owner.key", make_keys(root / "attacker")[0])
        for source, path, key in zip(self.pristine, (self.bundle, self.evil), private_keys, strict=True):
            shutil.copytree(source, path)
            _set_times(path)
            write_signature(path, manifest_bytes(path), key)
        self._parents, self._folders = self._inodes(self.parents), self._inodes((self.bundle, self.evil))
        self._files = self._inodes(path for folder in (self.bundle, self.evil) for path in files_below(folder))

    @property
    def files(self) -> list[Path]:
        """All of the bundle's, the manifest first."""
        return [Path(MANIFEST_FILE), *(Path(entry.path) for entry in self.manifest.files)]

    def files_of(self, graph: GraphSpec) -> list[Path]:
        """What a graph is made of."""
        parts = (graph.file, *graph.extra_files)
        return [path for path in self.files if any(path.is_relative_to(part) for part in parts)]

    def reset(self) -> None:
        """Undo an attack: exchange back what was exchanged, copy what was overwritten."""
        if self._inodes(self.parents) != self._parents:
            exchange(*self.parents)
        if self._inodes((self.bundle, self.evil)) != self._folders:
            exchange(self.bundle, self.evil)
        for file in self.files:
            here, there = self.bundle / file, self.evil / file
            if file not in self.touched and here.stat().st_ino != self._files[here]:
                exchange(here, there)
        for file in self.touched:
            spare = self.parents[0] / "spare"
            shutil.copy(self.pristine[0] / file, spare)
            os.utime(spare, (TIME, TIME))
            spare.replace(self.bundle / file)
            self._files[self.bundle / file] = (self.bundle / file).stat().st_ino
        self.touched.clear()
        shutil.rmtree(self.cache, ignore_errors=True)

    def warm_cache(self, *, evil: bool) -> Path:
        """A cache in which the bundle was compiled, or the evil one from the same path with the same times."""
        shutil.copytree(self.caches[evil], self.cache)
        return self.cache

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """The evil bundle lies where the good one belongs."""
        exchange(self.bundle, self.evil)
        yield
        exchange(self.bundle, self.evil)

    @staticmethod
    def _inodes(paths: Iterable[Path]) -> dict[Path, int]:
        return {path: path.stat().st_ino for path in paths}


def exchange(one: Path, other: Path) -> None:
    """Both names at once, as an attacker would: no moment at which either is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(HERE, bytes(one), HERE, bytes(other), EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


def files_below(folder: Path) -> list[Path]:
    """All of a folder, however deep."""
    return [path for path in folder.rglob("*") if path.is_file()]


def _set_times(folder: Path) -> None:
    for path in files_below(folder):
        os.utime(path, (TIME, TIME))


def _overwrite(stage: Stage, file: Path) -> None:
    _write_in_place(stage, file, stage.evil)


def _write_in_place(stage: Stage, file: Path, source: Path) -> None:
    stage.touched.add(file)
    with (stage.bundle / file).open("r+b") as target:
        target.write((source / file).read_bytes())
    os.utime(stage.bundle / file, (TIME, TIME))


def _truncate(stage: Stage, file: Path) -> None:
    stage.touched.add(file)
    path = stage.bundle / file
    os.truncate(path, stage.chance.choice([0, path.stat().st_size // 2]))


def _grow(stage: Stage, file: Path) -> None:
    stage.touched.add(file)
    os.truncate(stage.bundle / file, (stage.bundle / file).stat().st_size + GROWTH)


def _copy(stage: Stage, file: Path) -> None:
    stage.touched.add(file)
    shutil.copyfile(stage.evil / file, stage.bundle / file)
    os.utime(stage.bundle / file, (TIME, TIME))


def _rename(stage: Stage, file: Path) -> None:
    exchange(stage.bundle / file, stage.evil / file)


def _link(stage: Stage, file: Path) -> None:
    stage.touched.add(file)
    (stage.parents[0] / "spare").symlink_to(stage.evil / file)
    (stage.parents[0] / "spare").replace(stage.bundle / file)


def _pipe(stage: Stage, file: Path) -> None:
    stage.touched.add(file)
    os.mkfifo(stage.parents[0] / "spare")
    (stage.parents[0] / "spare").replace(stage.bundle / file)


def _flicker(stage: Stage, file: Path) -> None:
    """The next step of an overwrite that goes there and back."""
    sources = (stage.evil, stage.pristine[0]) if file in stage.touched else (stage.evil,)
    _write_in_place(stage, file, stage.chance.choice(sources))


def _folder(stage: Stage, file: Path) -> None:
    exchange(stage.bundle, stage.evil)


def _parent(stage: Stage, file: Path) -> None:
    exchange(*stage.parents)


def _manifest(stage: Stage, file: Path) -> None:
    _rename(stage, Path(MANIFEST_FILE))


def _manifest_and_file(stage: Stage, file: Path) -> None:
    _manifest(stage, file)
    _rename(stage, file)


def _one_by_one(stage: Stage, file: Path) -> None:
    for each in stage.chance.sample(stage.files, len(stage.files)):
        _rename(stage, each)


def _foreign_blobs(stage: Stage, file: Path) -> None:
    """What was compiled of the evil bundle, under the names of what was compiled of the good one."""
    for blob, foreign in zip(
        *(sorted(files_below(it), key=_size) for it in (stage.cache, stage.caches[1])), strict=False
    ):
        blob.write_bytes(foreign.read_bytes())


def _damaged_blobs(stage: Stage, file: Path) -> None:
    for blob in files_below(stage.cache):
        with blob.open("r+b") as opened:
            opened.seek(_size(blob) // 2)
            opened.write(stage.chance.randbytes(_size(blob) // 2))


def _cut_blobs(stage: Stage, file: Path) -> None:
    for blob in files_below(stage.cache):
        os.truncate(blob, _size(blob) // 2)


def _nothing(stage: Stage, file: Path) -> None:
    """The cache is all of the attack: another bundle's, from the same path with the same times."""


CACHE_OF_ANOTHER = "cache of another"
Step = Callable[[Stage, Path], None]
ON_A_FILE: dict[str, Step] = {
    "overwrite": _overwrite,
    "truncate": _truncate,
    "grow": _grow,
    "copy over": _copy,
    "rename": _rename,
    "link": _link,
    "pipe": _pipe,
    "manifest": _manifest,
    "manifest and file": _manifest_and_file,
}
THERE_AND_BACK: dict[str, Step] = {
    "overwrite, there and back": _flicker,
    "rename, there and back": _rename,
    "folder, there and back": _folder,
    "parent, there and back": _parent,
}
ON_ALL: dict[str, Step] = {"folder": _folder, "parent": _parent, "file by file": _one_by_one}
ON_THE_CACHE: dict[str, Step] = {
    CACHE_OF_ANOTHER: _nothing,
    "foreign blobs": _foreign_blobs,
    "damaged blobs": _damaged_blobs,
    "cut blobs": _cut_blobs,
}
"""Kinds of attack -> what it does once, given one of the files that a graph is made of."""


@contextmanager
def attacking(stage: Stage, kind: str, file: Path) -> Iterator[None]:
    """The attack begins before the block; one that goes there and back goes on inside it."""
    if kind not in THERE_AND_BACK:
        ({**ON_A_FILE, **ON_ALL, **ON_THE_CACHE})[kind](stage, file)
        yield
        return
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(stage.chance.uniform(*PERIOD_S)):
            THERE_AND_BACK[kind](stage, file)

    THERE_AND_BACK[kind](stage, file)
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _size(path: Path) -> int:
    return path.stat().st_size


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

    def table(self, moments: Sequence[str]) -> str:
        """Kinds by moments, in Markdown; `ok` counts right answers and errors."""
        kinds = sorted({kind for kind, _ in self._counts})
        rows = [[kind, *(self._cell(kind, moment) for moment in moments)] for kind in kinds]
        return table(("attack", *moments), rows)

    def _cell(self, kind: str, moment: str) -> str:
        found = self._counts.get((kind, moment), Counter())
        bad = [f"{count} {outcome}" for outcome, count in found.items() if outcome not in (RIGHT, ERROR)]
        fine = found[RIGHT] + found[ERROR]
        return ", ".join([*bad, *([f"{fine} ok"] if fine else [])])
