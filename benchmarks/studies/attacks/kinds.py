"""What an attacker does with a bundle, given one of the files that a graph is made of."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vqrae.benchmarks.studies.attacks.stage import TIME, Stage, exchange, files_below
from vqrae.runtimes.manifest import MANIFEST_FILE

GROWTH = 2**26
PERIOD_S = (0.0005, 0.008)
"""Between two steps of an attack that goes there and back."""


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
