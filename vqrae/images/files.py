"""Which files a name stands for: everything below a folder, by one rule for all verbs.

Below a folder everything is read that is an image, a tar or a Parquet file by its name: a banner beside shards is one
image more and never stands for them. What is hidden, of another kind, or no regular file is left out and named. Links
are followed; a folder is read once, by its own name before those of links.
"""

from __future__ import annotations

import errno
import glob
import heapq
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from vqrae.images.kinds import IMAGE_SUFFIXES, Kind, Why, hidden, kind_of
from vqrae.images.report import Damaged, LeftOut, lines_of
from vqrae.runtimes.errors import DataError, storage_error

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_COUNTED = 10**6
"""Files in a range `{first..last}`."""
_UNREACHABLE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE)
"""What is wrong with one folder, not with the disk."""


@dataclass
class DataFiles:
    """The files that images are read from, and what lies beside them."""

    root: Path
    """The folder that all names are below."""
    names: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in get_args(Kind)})
    """Paths below `root` with `/`, in their order; they may hold bytes that are no UTF-8."""
    left_out: list[LeftOut] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    @property
    def kinds(self) -> list[Kind]:
        """Those that there are files of."""
        return [kind for kind, names in self.names.items() if names]

    def paths(self, kind: Kind) -> list[Path]:
        """The files of a kind."""
        return [self.root / name for name in self.names[kind]]

    def _add(self, name: str, kind: Kind | Why) -> None:
        """Sort in what is no folder, `kind` by its name."""
        path = self.root / name
        if kind not in self.names:
            self.left_out.append(LeftOut.of(name, cast("Why", kind)))
        elif path.is_file():
            self.names[kind].append(name)
        elif os.path.exists(path):  # noqa: PTH110 - False, where `Path.exists` may raise
            self.left_out.append(LeftOut.of(name, "special"))
        else:
            self.damaged.append(Damaged.of(name, "a link to nothing that can be reached"))


def data_files(data: str | Path) -> DataFiles | None:
    """What a name stands for, or None where it names nothing on this machine and could be a hub's dataset.

    Args:
        data: a folder; an image, a tar or a Parquet file; or a pattern of these with `*`, `?`, `[…]` or one
            `{first..last}`, counted with leading zeros as the first has them.

    Raises:
        DataError: nothing of these kinds is there.
        StorageError: the operating system refused to read.
    """
    data = str(data)
    try:
        found = _named(data)
    except OSError as error:
        raise storage_error(error.filename or data, error) from error
    if found is not None and not found.kinds and not found.damaged:
        expected = f"images ({', '.join(IMAGE_SUFFIXES)}), tars or Parquet files"
        got = "; ".join(["no images", *lines_of(found.left_out, ())])
        raise DataError(data, got=got, expected=expected)
    return found


def image_files(folder: Path | str) -> list[Path]:
    """The image files below a folder, sorted by path, for verbs that read nothing else.

    Raises:
        DataError: not a folder, or no image in it.
    """
    folder = Path(folder)
    found = _below(folder).paths("images") if folder.is_dir() else []
    if not found:
        got = "no image files" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise DataError(str(folder), got=got, expected=f"a folder with {', '.join(IMAGE_SUFFIXES)} files")
    return found


def _named(data: str) -> DataFiles | None:
    path = Path(data)
    if path.is_dir():
        return _below(path)
    if os.path.lexists(path):
        return _chosen([path])
    if _RANGE.search(data):
        return _chosen(_counted(data))
    if glob.has_magic(data):
        return _chosen(sorted(Path(name) for name in glob.glob(data, recursive=True)))  # noqa: PTH207
    return None


def _chosen(paths: list[Path]) -> DataFiles:
    """What a pattern found: files by name, and what is below folders."""
    files = DataFiles(Path(os.path.commonpath([path.parent for path in paths])) if paths else Path())
    for path in paths:
        if not path.is_dir():
            kind = kind_of(path.name.lstrip("."))  # it was named, so it is not hidden
            files._add(path.relative_to(files.root).as_posix(), kind)
    for folder in (path for path in paths if path.is_dir()):
        below = _below(folder, files.root)
        for kind, names in below.names.items():
            files.names[kind] += names
        files.left_out += below.left_out
        files.damaged += below.damaged
    return _in_order(files)


def _counted(data: str) -> list[Path]:
    """The files of a pattern with one range, which must all be there."""
    before, first, last, after = _RANGE.split(data, maxsplit=1)
    if int(last) - int(first) >= _MOST_COUNTED:
        raise DataError(data, got=f"{first} to {last}", expected=f"at most {_MOST_COUNTED} files")
    paths = [Path(f"{before}{number:0{len(first)}}{after}") for number in range(int(first), int(last) + 1)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        got = f"{len(missing)} of {len(paths)} files missing, the first: {missing[0]}"
        raise DataError(data, got=got, expected="all of them")
    return paths


def _below(folder: Path, root: Path | None = None) -> DataFiles:
    """All that is below a folder, each folder once: those that are linked after those that are there."""
    files = DataFiles(root or folder)
    start = "" if root is None else folder.relative_to(root).as_posix()
    seen: set[tuple[int, int]] = set()
    folders, linked = [start], list[str]()
    while folders or linked:
        name = folders.pop() if folders else heapq.heappop(linked)
        try:
            with os.scandir(files.root / name) as opened:
                entries, identity = list(opened), _identity(files.root / name)
        except OSError as error:
            if name == start or error.errno not in _UNREACHABLE:
                raise
            files.damaged.append(Damaged.of(f"{name}/", error.strerror or str(error)))
            continue
        if identity in seen:
            files.left_out.append(LeftOut.of(name, "link"))
            continue
        seen.add(identity)
        for entry in entries:
            path = f"{name}/{entry.name}" if name else entry.name
            if not _is_folder(entry):
                files._add(path, kind_of(path))
            elif not entry.is_symlink():
                folders.append(path)
            elif hidden(path):
                files.left_out.append(LeftOut.of(path, "hidden"))
            else:
                heapq.heappush(linked, path)
    return _in_order(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that cannot be followed


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _in_order(files: DataFiles) -> DataFiles:
    """By path and each once, whatever the file system's order was, and however many parts of a pattern found it."""
    for names in files.names.values():
        names[:] = _sorted(names)
    files.left_out = sorted(dict.fromkeys(files.left_out), key=lambda it: it.key)
    files.damaged = sorted(dict.fromkeys(files.damaged), key=lambda it: it.key)
    return files


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(names), key=lambda name: name.split("/"))
