"""Sealed bytes: those that were hashed are those that run.

Whoever may write to a bundle's folder, or to the one that it lies in, can change a file between the moment when its
hash is taken and the moment when a runtime reads it, and where a runtime maps its weights, at any time after that. So a
runtime is never given the bundle's own files. It gets private copies, or bytes in memory, whose hashes are compared
with the manifest that was read once. A link in a bundle may point anywhere: what it leads to is copied and hashed.

Covered: files that are overwritten, cut off, renamed or exchanged, and whole folders, before, while and after a graph
is loaded. Not covered: a process of the same user, who may change the copies too, or trace this one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal, Self

import numpy as np

from vqrae.runtimes.bundle import Bundle, open_regular
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import StorageError, VqraeError, storage_error
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import MANIFEST_FILE, FileEntry
from vqrae.runtimes.private_folder import PrivateFolder

Sealing = Literal["disk", "memory"]
"""Where the bytes are kept while a runtime loads them: in a private folder, or in memory, which costs twice as much of
it (a runtime insists on a copy of its own), but no disk."""

_CLONE = 0x40049409
"""Linux's FICLONE: a copy that shares its blocks, on file systems that can."""


class Sealed(Closing):
    """The files that a graph is loaded from. `close` deletes copies; what a runtime has open by then, it keeps."""

    def __init__(
        self,
        origin: Path,
        entries: Iterable[FileEntry] = (),
        *,
        folder: Path | None = None,
        contents: Mapping[str, memoryview] = MappingProxyType({}),
        owned: ExitStack | None = None,
    ) -> None:
        """For `of` and `in_place`."""
        self._origin = origin
        self._entries = tuple(entries)
        self._folder = folder
        self._contents = contents
        self._owned = owned or ExitStack()

    @classmethod
    def of(cls, bundle: Bundle, files: Iterable[str], sealing: Sealing) -> Self:
        """Copy files of a bundle, to be compared with their hashes by `check`; a folder stands for its files.

        A bundle that is private already is not copied again.

        Raises:
            BundleError: a file is missing, no file, or of another size.
            StorageError: there is no room for the copies, or the operating system refused to read or write.
        """
        entries = bundle.entries(files)
        if bundle.private:
            return cls(bundle.path, entries, folder=bundle.path)
        if sealing == "memory":
            return cls(bundle.path, entries, contents={entry.path: _read(bundle, entry) for entry in entries})
        with ExitStack() as owned:
            folder = owned.enter_context(PrivateFolder()).path
            for entry in entries:
                _copy(bundle, entry, folder / entry.path)
            return cls(bundle.path, entries, folder=folder, owned=owned.pop_all())

    @classmethod
    def in_place(cls, folder: Path) -> Self:
        """Files that this process has just written to a folder of its own, which nobody else is expected to change."""
        return cls(folder, folder=folder)

    @property
    def in_memory(self) -> bool:
        """Whether there are bytes and no files."""
        return self._folder is None

    @property
    def sha256(self) -> str:
        """What stands for all of the files: a hash of their paths and hashes."""
        listing = "\n".join(entry.model_dump_json() for entry in self._entries)
        return hashlib.sha256(listing.encode()).hexdigest()

    def subject(self, file: str) -> Path:
        """What an error calls a file: its path in the bundle."""
        return self._origin / file

    def path(self, file: str) -> Path:
        """The copy of a file or folder, where there are files."""
        if self._folder is None:
            raise ValueError(f"{file} is in memory")
        return self._folder / file

    def content(self, file: str) -> memoryview:
        """The bytes of a file."""
        return memoryview(self.path(file).read_bytes()) if self._folder is not None else self._contents[file]

    def renamed(self, error: VqraeError) -> None:
        """Let an error speak of the bundle's files instead of the copies."""
        if self._folder is None:
            return
        copies, origin = str(self._folder), str(self._origin)
        error.subject = error.subject.replace(copies, origin)
        error.got = error.got and error.got.replace(copies, origin)

    def check(self, files: Iterable[str]) -> None:
        """Compare copies with the SHA-256 that the manifest says, several at once; a folder stands for its files.

        Raises:
            BundleError: one is another; of several, the first that the manifest lists.
            StorageError: the operating system refused to read a copy.
        """
        wanted = [Path(file) for file in files]
        chosen = [entry for entry in self._entries if any(Path(entry.path).is_relative_to(path) for path in wanted)]
        if not chosen:
            return
        try:
            with ThreadPoolExecutor(min(this_machine().cores, len(chosen))) as pool:
                digests = list(pool.map(self._sha256, chosen))
        except OSError as error:
            raise storage_error(error.filename or self._origin, error) from error
        for entry, digest in zip(chosen, digests, strict=True):
            entry.check_digest(self._origin, digest)

    def close(self) -> None:  # noqa: D102 - documented by Closing
        self._owned.close()

    def _sha256(self, entry: FileEntry) -> str:
        if self._folder is None:
            return hashlib.sha256(self._contents[entry.path]).hexdigest()
        with self.path(entry.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def private_copy(bundle: Bundle) -> Iterator[Bundle]:
    """A bundle whose files are sealed for the length of the block, to be loaded by any process of this user.

    Raises:
        BundleError: a file was changed.
        StorageError: there is no room for the copy, or the operating system refused to read or write.
    """
    files = [entry.path for entry in bundle.manifest.files]
    with PrivateFolder() as folder:
        for entry in bundle.manifest.files:
            _copy(bundle, entry, folder.path / entry.path)
        (folder.path / MANIFEST_FILE).write_bytes(bundle.text)
        copy = replace(bundle, path=folder.path, private=True)
        Sealed(bundle.path, copy.manifest.files, folder=folder.path).check(files)
        yield copy


def close_after_loading(sealed: Sealed) -> bool:
    """Whether the copies may be deleted while a runtime has them open: Windows does not let them go."""
    return sys.platform != "win32" or sealed.in_memory


def _read(bundle: Bundle, entry: FileEntry) -> memoryview:
    """The bytes of one file. NumPy's memory, since it takes half the time to be filled that `bytes` takes."""
    content, size = np.empty(entry.size + 1, np.uint8).data, 0
    with open_regular(bundle.path, entry.path) as file:
        try:
            while size < len(content) and (more := file.readinto(content[size:])):  # type: ignore[attr-defined] # raw
                size += more
        except OSError as error:
            raise storage_error(bundle.path / entry.path, error) from error
    entry.check_size(bundle.path, size)
    return content[:size]


def _copy(bundle: Bundle, entry: FileEntry, target: Path) -> None:
    """Copy one file as fast as the system can, sharing its blocks where it can."""
    with open_regular(bundle.path, entry.path) as source:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                if not _cloned(source, copy):
                    _filled(source, copy, entry.size)
            size = target.stat().st_size
        except OSError as error:
            raise _no_room(target, entry, error) from error
    entry.check_size(bundle.path, size)


def _cloned(source: IO[bytes], copy: IO[bytes]) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(copy.fileno(), _CLONE, source.fileno())
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _filled(source: IO[bytes], copy: IO[bytes], size: int) -> None:
    """At most one byte more than there should be: a file that grows for ever is no reason to fill the disk."""
    left = size + 1
    if sys.platform == "linux":
        try:
            while left and (done := os.copy_file_range(source.fileno(), copy.fileno(), left)):
                left -= done
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            copy.seek(0, os.SEEK_END)
            source.seek(size + 1 - left)
    while left and (piece := source.read(min(left, 2**20))):
        copy.write(piece)
        left -= len(piece)


def _no_room(target: Path, entry: FileEntry, error: OSError) -> StorageError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return storage_error(error.filename or target, error)
    free = shutil.disk_usage(target.parent).free
    remedy = "free some space, set XDG_CACHE_HOME to another disk, or load with sealing='memory' (--sealing memory)"
    got = f"{free} bytes free for the private copy of {entry.path}"
    return StorageError(str(target.parent), got=got, expected=f"{entry.size}", remedy=remedy)
