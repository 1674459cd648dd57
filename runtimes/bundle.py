"""A bundle: the folder that a tokenizer is deployed as. Opening one proves that it is whole and unchanged.

The manifest is read once; from then on it is what memory holds that decides. Every later use of a file takes bytes that
were compared with it (`read`, `copy`, `reading`), and a graph is loaded from such bytes alone (`sealed.py`).
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self, cast

from vqrae.runtimes.errors import BundleError, storage_error
from vqrae.runtimes.golden import GOLDEN_FOLDER, GoldenSamples, load_golden
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import (
    MANIFEST_FILE,
    FileEntry,
    GraphSpec,
    Manifest,
    folders_above,
    parse_manifest,
    read_manifest_bytes,
)
from vqrae.runtimes.signature import check_signature

_REMEDY = "export it again"
_UNPACK = "if it is a packed bundle, `vqrae unpack FILE -o FOLDER` first"
_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A pipe that nobody writes to must not be waited for."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was read. Make one with `Bundle.open`."""

    path: Path
    """Its folder."""
    manifest: Manifest
    """What it says about itself."""
    text: bytes
    """The bytes of the manifest that was read, which a signature signs."""
    private: bool = False
    """Whether its folder is a verified copy that only this user may change: then it is not copied to be loaded."""

    @classmethod
    def open(
        cls, path: Path | str, *, public_key: Path | str | None = None, sha256: str | None = None, private: bool = False
    ) -> Self:
        """Read the manifest, then check every file's kind, size and SHA-256.

        Arguments and errors are those of `listed`.
        """
        bundle = cls.listed(path, public_key=public_key, sha256=sha256, private=private)
        bundle.check_all()
        return bundle

    @classmethod
    def listed(
        cls, path: Path | str, *, public_key: Path | str | None = None, sha256: str | None = None, private: bool = False
    ) -> Self:
        """Read the manifest, then check every file's kind and size; contents are compared when they are used.

        Args:
            path: the bundle's folder. Links in it are followed: what they lead to is compared like anything else.
            public_key: file of the key that must have signed it; the signature lies beside the folder, as `BUNDLE.sig`.
            sha256: what `Bundle.sha256` was when another process opened it; None takes any.
            private: see there.

        Raises:
            BundleError: the folder or a file is missing, changed or not listed, the manifest is invalid, or the bundle
                is another one than `sha256` says.
            SignatureError: it is not signed by that key.
            RuntimeUnavailable: what checks signatures is not installed.
            StorageError: the operating system refused to read a file.
        """
        path = Path(path)
        try:
            if not path.is_dir():
                got, remedy = ("a file", _UNPACK) if path.exists() else ("no such folder", None)
                raise BundleError(str(path), got=got, expected="a bundle's folder", remedy=remedy)
            with open_regular(path, MANIFEST_FILE) as file:
                text = read_manifest_bytes(path / MANIFEST_FILE, file)
            if sha256 is not None and (found := hashlib.sha256(text).hexdigest()) != sha256:
                got, expected = f"manifest {found[:12]}…", f"{sha256[:12]}…, as when this was started"
                raise BundleError(str(path), got=got, expected=expected, remedy="put it back, or start again")
            if public_key is not None:
                check_signature(path, text, public_key)
            manifest = parse_manifest(str(path / MANIFEST_FILE), text)
            for entry in manifest.files:
                with open_regular(path, entry.path) as file:
                    entry.check_size(path, os.fstat(file.fileno()).st_size)
            _check_nothing_else(path, manifest)
        except OSError as error:
            raise storage_error(error.filename or path, error) from error
        return cls(path, manifest, text, private)

    @cached_property
    def sha256(self) -> str:
        """What stands for a bundle: the hash of its manifest, which holds the hashes of everything else."""
        return hashlib.sha256(self.text).hexdigest()

    def check_all(self) -> None:
        """Compare every file with its SHA-256, several at once.

        Raises:
            BundleError: one was changed; of several, the first that the manifest lists.
            StorageError: the operating system refused to read one.
        """
        with ThreadPoolExecutor(this_machine().cores) as pool:
            for _ in pool.map(lambda entry: self._check(entry.path), self.manifest.files):
                pass

    def entries(self, files: Iterable[str]) -> tuple[FileEntry, ...]:
        """What the manifest says of files, in its order; a folder stands for its files."""
        wanted = [Path(file) for file in files]
        return tuple(it for it in self.manifest.files if any(Path(it.path).is_relative_to(path) for path in wanted))

    def file(self, relative: str) -> Path:
        """The path of a file that the manifest lists. Others may change what lies there: `read` gives verified bytes.

        Raises:
            BundleError: the manifest does not list it.
        """
        return self.path / self._entry(relative).path

    @contextmanager
    def reading(self, relative: str) -> Iterator[IO[bytes]]:
        """A file that the manifest lists, to be read from its start to its end within the block.

        What was read is compared with the manifest when the block ends: only then may it be relied upon.

        Raises:
            BundleError: the manifest does not list it, or it was changed.
            StorageError: the operating system refused to read it.
        """
        entry = self._entry(relative)
        with open_regular(self.path, relative) as file:
            hashed = _HashedReader(file, entry.size)
            try:
                yield cast("IO[bytes]", hashed)
            except OSError as error:
                raise storage_error(error.filename or self.path / relative, error) from error
            entry.check_size(self.path, hashed.size)
            entry.check_digest(self.path, hashed.digest)

    def read(self, relative: str) -> bytes:
        """The content of a file that the manifest lists; errors as for `reading`."""
        with self.reading(relative) as file:
            return file.read()

    def copy(self, relative: str, target: Path) -> None:
        """Write a file that the manifest lists to `target`, making its folder; errors as for `reading`."""
        with self.reading(relative) as file:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                shutil.copyfileobj(file, copy, 2**20)

    def golden(self) -> GoldenSamples:
        """The golden samples, checked against the manifest's hashes, image size and token grid.

        Raises:
            BundleError: there are none, they were changed, or they do not fit the manifest.
            StorageError: the operating system refused to read one.
        """
        contents = {it.path: self.read(it.path) for it in self.entries([GOLDEN_FOLDER])}
        samples = load_golden(self.path, contents, self.manifest.graphs)
        size = (self.manifest.preprocessing.height, self.manifest.preprocessing.width)
        tokens = self.manifest.tokens.shape
        for name, found, wanted in (
            ("images", size if samples.images is None else samples.images.shape[1:3], size),
            ("indices", samples.indices.shape[1:], tokens),
            ("decoded", size if samples.decoded is None else samples.decoded.shape[1:3], size),
        ):
            if found != wanted:
                subject = f"{self.path}/golden/{name}.npy"
                raise BundleError(subject, got=f"size {found}", expected=f"size {wanted}", remedy=_REMEDY)
        return samples

    @property
    def graph_bytes(self) -> int:
        """Size of what the runtime loads: neither golden samples, nor the ONNX graphs that an engine was built from."""
        return self._loaded_bytes(self.manifest.graphs.values())

    def bytes_of(self, graph: str) -> int:
        """Size of what the runtime loads for one graph, which is weights but for a small part."""
        return self._loaded_bytes([self.manifest.graphs[graph]])

    @property
    def size_bytes(self) -> int:
        """Size on disk in bytes, the manifest included."""
        return sum(entry.size for entry in self.manifest.files) + len(self.text)

    def _loaded_bytes(self, graphs: Iterable[GraphSpec]) -> int:
        """Of files that graphs share, once; an artifact may be a folder."""
        files = (path for graph in graphs for path in (graph.file, *graph.extra_files))
        return sum(entry.size for entry in self.entries(files))

    def _entry(self, relative: str) -> FileEntry:
        entry = next((it for it in self.manifest.files if it.path == relative), None)
        if entry is None:
            expected = ", ".join(it.path for it in self.manifest.files)
            got = "a file that the manifest does not list"
            raise BundleError(str(self.path / relative), got=got, expected=expected)
        return entry

    def _check(self, relative: str) -> None:
        with self.reading(relative) as file:
            while file.read(2**20):
                pass


class _HashedReader(io.RawIOBase):
    """Hashes what is read; reads one byte more than there should be, and no further."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most + 1
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._hash.update(piece)
        self._left -= len(piece)
        self.size += len(piece)
        return len(piece)


@contextmanager
def open_regular(root: Path, relative: str) -> Iterator[IO[bytes]]:
    """Open a file below a folder for reading; links are followed, and what is no file is not waited for.

    Raises:
        BundleError: there is no such file, or it is something else.
        StorageError: the operating system refused.
    """
    path = root / relative
    try:
        descriptor = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(str(path), got="no such file", expected="a file", remedy=_REMEDY) from error
    except OSError as error:
        raise storage_error(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(str(path), got="something that is not a file", expected="a file", remedy=_REMEDY)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below the folder but the manifest, in path order, with size and SHA-256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_FILE)
    return tuple(
        FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; the folder is still a staging one, so nothing reads it half-written."""
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def _check_nothing_else(root: Path, manifest: Manifest) -> None:
    """An unlisted file is refused: whoever finds it there may take it for verified."""
    listed = {MANIFEST_FILE, *(entry.path for entry in manifest.files)}
    folders = folders_above(listed)
    left = [root]
    while left:  # no folder is entered that has no listed file below it, so depth is the manifest's
        for path in sorted(left.pop().iterdir()):
            relative = path.relative_to(root).as_posix()
            if relative in folders and path.is_dir():
                left.append(path)
            elif relative not in listed:
                got, expected = "a file that the manifest does not list", f"only the {len(listed)} files of the bundle"
                raise BundleError(str(path), got=got, expected=expected, remedy="remove it, or export the bundle again")
