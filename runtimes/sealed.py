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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import RawIOBase
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import IO, Self

import numpy as np

from vqrae.runtimes.bundle import Bundle, open_regular
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import StorageError, VqraeError, storage_error
from vqrae.runtimes.load_options import Sealing
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import MANIFEST_FILE, FileEntry
from vqrae.runtimes.private_folder import PrivateFolder

_CLONE = 0x40049409
"""Linux's FICLONE: a copy that shares its blocks, on file systems that can."""
_PIECE = 2**24
"""Bytes that are copied before the next are hashed."""


class Sealed(Closing):
    """The files that a graph is loaded from. `close` deletes copies; what a runtime has open by then, it keeps."""

    def __init__(
        self,
        origin: Path,
        *,
        folder: Path | None = None,
        contents: Mapping[str, memoryview] = MappingProxyType({}),
        digests: Mapping[FileEntry, Future[str]] = MappingProxyType({}),
        owned: ExitStack | None = None,
    ) -> None:
        """For `of` and `in_place`; `digests` is what the copies hash to, which is found out meanwhile."""
        self._origin = origin
        self._folder = folder
        self._contents = contents
        self._digests = digests
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
        with ExitStack() as owned:
            folder = None
            if not bundle.private and sealing == "disk":
                folder = owned.enter_context(PrivateFolder()).path
            pool = owned.enter_context(ThreadPoolExecutor(this_machine().cores))
            if bundle.private:
                hashed = {entry: pool.submit(_hashed, bundle.path / entry.path) for entry in entries}
                return cls(bundle.path, folder=bundle.path, digests=hashed, owned=owned.pop_all())
            if folder is not None:
                hashed = {entry: _copied(bundle, entry, folder / entry.path, pool) for entry in entries}
                return cls(bundle.path, folder=folder, digests=hashed, owned=owned.pop_all())
            contents = {entry.path: _read(bundle, entry) for entry in entries}
            hashed = {entry: pool.submit(_hashed_bytes, contents[entry.path]) for entry in entries}
            return cls(bundle.path, contents=contents, digests=hashed, owned=owned.pop_all())

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
        listing = "\n".join(entry.model_dump_json() for entry in self._digests)
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
        for entry, digest in self._digests.items():
            if any(Path(entry.path).is_relative_to(path) for path in wanted):
                try:
                    entry.check_digest(self._origin, digest.result())
                except OSError as error:
                    raise storage_error(error.filename or self._origin, error) from error

    def close(self) -> None:  # noqa: D102 - documented by Closing
        self._owned.close()


@contextmanager
def private_copy(bundle: Bundle) -> Iterator[Bundle]:
    """A bundle whose files are sealed for the length of the block, to be loaded by any process of this user.

    Raises:
        BundleError: a file was changed.
        StorageError: there is no room for the copy, or the operating system refused to read or write.
    """
    files = [entry.path for entry in bundle.manifest.files]
    with Sealed.of(bundle, files, "disk") as sealed:
        sealed.check(files)
        sealed.path(MANIFEST_FILE).write_bytes(bundle.text)
        yield replace(bundle, path=sealed.path(""), private=True)


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


def _copied(bundle: Bundle, entry: FileEntry, target: Path, pool: ThreadPoolExecutor) -> Future[str]:
    """Copy one file as fast as the system can, sharing its blocks where it can; its hash follows behind."""
    written: SimpleQueue[int] = SimpleQueue()
    with open_regular(bundle.path, entry.path) as source:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb", buffering=0) as copy:
                digest = pool.submit(_hashed, target, written)
                try:
                    for size in _pieces(source, copy, entry.size):
                        written.put(size)
                finally:
                    written.put(0)
            size = target.stat().st_size
        except OSError as error:
            raise _no_room(target, entry, error) from error
    entry.check_size(bundle.path, size)
    return digest


def _pieces(source: IO[bytes], copy: RawIOBase, size: int) -> Iterator[int]:
    """Copy, and say how much was copied each time.

    At most one byte more than there should be: a file that grows for ever is no reason to fill the disk.
    """
    if _cloned(source, copy):
        yield os.fstat(copy.fileno()).st_size
        return
    left, by_the_system = size + 1, sys.platform == "linux"
    while left:
        if by_the_system:
            try:
                done = os.copy_file_range(source.fileno(), copy.fileno(), min(left, _PIECE))
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                by_the_system = False
                continue
        else:
            piece = source.read(min(left, _PIECE))
            done = len(piece)
            while piece:
                piece = piece[copy.write(piece) :]
        if not done:
            return
        yield done
        left -= done


def _cloned(source: IO[bytes], copy: RawIOBase) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(copy.fileno(), _CLONE, source.fileno())
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _hashed(path: Path, written: SimpleQueue[int] | None = None) -> str:
    """The SHA-256 of a file, as far as it is said to be written; 0 ends it."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if written is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        while left := written.get():
            while left and (piece := file.read(min(left, 2**20))):
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()


def _hashed_bytes(content: memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _no_room(target: Path, entry: FileEntry, error: OSError) -> StorageError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return storage_error(error.filename or target, error)
    free = shutil.disk_usage(target.parent).free
    remedy = "free some space, set XDG_CACHE_HOME to another disk, or load with sealing='memory' (--sealing memory)"
    got = f"{free} bytes free for the private copy of {entry.path}"
    return StorageError(str(target.parent), got=got, expected=f"{entry.size}", remedy=remedy)
