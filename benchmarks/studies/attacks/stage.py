"""Where sealed bytes are attacked: a bundle and an evil one beside it, put back after each attack. Linux only."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vqrae.runtimes.archive import manifest_bytes
from vqrae.runtimes.manifest import MANIFEST_FILE, GraphSpec, read_manifest
from vqrae.runtimes.signature import make_keys, write_signature

EXCHANGE, HERE = 2, -100
"""renameat2's RENAME_EXCHANGE, and AT_FDCWD."""
TIME = 1_700_000_000
"""When every file was last changed, before an attack and after it."""


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
