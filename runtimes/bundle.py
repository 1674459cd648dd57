"""A bundle: the folder that a tokenizer is deployed as. Opening one proves that it is whole and unchanged.

Contents are most of what that costs. A tokenizer lists the files first, and has a graph's checked when it needs it.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from vqrae.runtimes.errors import BundleError, storage_error
from vqrae.runtimes.golden import GOLDEN_FOLDER, GoldenSamples, load_golden
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import (
    MANIFEST_FILE,
    FileEntry,
    GraphSpec,
    Manifest,
    parse_manifest,
    read_manifest_bytes,
)
from vqrae.runtimes.signature import check_signature

_REMEDY = "export it again"
_UNPACK = "if it is a packed bundle, `vqrae unpack FILE -o FOLDER` first"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Make one with `Bundle.open`."""

    path: Path
    """Its folder."""
    manifest: Manifest
    """What it says about itself."""
    _checked: set[str] = field(default_factory=set, compare=False, repr=False)
    """Files whose contents are known to be the manifest's."""

    @classmethod
    def open(cls, path: Path | str, *, public_key: Path | str | None = None) -> Self:
        """Read the manifest, then check every file's kind, size and SHA-256.

        Arguments and errors are those of `listed`.
        """
        bundle = cls.listed(path, public_key=public_key)
        bundle.check_all()
        return bundle

    @classmethod
    def listed(cls, path: Path | str, *, public_key: Path | str | None = None) -> Self:
        """Read the manifest, then check every file's kind and size; `check` is still to compare what is used.

        Args:
            path: the bundle's folder.
            public_key: file of the key that must have signed it; the signature lies beside the folder, as `BUNDLE.sig`.

        Raises:
            BundleError: the folder or a file is missing, a link, changed or not listed, or the manifest is invalid.
            SignatureError: it is not signed by that key.
            RuntimeUnavailable: what checks signatures is not installed.
            StorageError: the operating system refused to read a file.
        """
        path = Path(path)
        try:
            if not path.is_dir():
                got, remedy = ("a file", _UNPACK) if path.exists() else ("no such folder", None)
                raise BundleError(str(path), got=got, expected="a bundle's folder", remedy=remedy)
            _check_regular(path, MANIFEST_FILE)
            text = read_manifest_bytes(path / MANIFEST_FILE)
            if public_key is not None:
                check_signature(path, text, public_key)
            manifest = parse_manifest(str(path / MANIFEST_FILE), text)
            for entry in manifest.files:
                _check_size(path, entry)
            _check_nothing_else(path, manifest)
        except OSError as error:
            raise storage_error(error.filename or path, error) from error
        return cls(path, manifest)

    def check_all(self) -> None:
        """`check` every file that the manifest lists."""
        self.check(entry.path for entry in self.manifest.files)

    def check(self, paths: Iterable[str]) -> None:
        """Compare files with their SHA-256, several at once, each only the first time; a folder stands for its files.

        Raises:
            BundleError: one was changed; of several, the first that the manifest lists.
            StorageError: the operating system refused to read one.
        """
        wanted = [Path(path) for path in paths]
        entries = [
            entry
            for entry in self.manifest.files
            if entry.path not in self._checked and any(Path(entry.path).is_relative_to(path) for path in wanted)
        ]
        if not entries:
            return
        try:
            with ThreadPoolExecutor(min(this_machine().cores, len(entries))) as pool:
                for _ in pool.map(lambda entry: _check_content(self.path, entry), entries):
                    pass
        except OSError as error:
            raise storage_error(error.filename or self.path, error) from error
        self._checked.update(entry.path for entry in entries)

    def file(self, relative: str) -> Path:
        """The path of a file that the manifest lists.

        Raises:
            BundleError: the manifest does not list it.
        """
        if all(entry.path != relative for entry in self.manifest.files):
            expected = ", ".join(entry.path for entry in self.manifest.files)
            raise BundleError(
                str(self.path / relative), got="a file that the manifest does not list", expected=expected
            )
        return self.path / relative

    def golden(self) -> GoldenSamples:
        """The golden samples, checked against the manifest's hashes, image size and token grid.

        Raises:
            BundleError: there are none, they were changed, or they do not fit the manifest.
            StorageError: the operating system refused to read one.
        """
        self.check([GOLDEN_FOLDER])
        samples = load_golden(self.path)
        size = (self.manifest.preprocessing.height, self.manifest.preprocessing.width)
        for name, found, wanted in (
            ("images", samples.images.shape[1:3], size),
            ("indices", samples.indices.shape[1:], self.manifest.tokens.grid),
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
        return sum(entry.size for entry in self.manifest.files) + (self.path / MANIFEST_FILE).stat().st_size

    def _loaded_bytes(self, graphs: Iterable[GraphSpec]) -> int:
        """Of files that graphs share, once; an artifact may be a folder."""
        loaded = [Path(path) for graph in graphs for path in (graph.file, *graph.extra_files)]
        sizes = {Path(entry.path): entry.size for entry in self.manifest.files}
        return sum(size for path, size in sizes.items() if any(path.is_relative_to(part) for part in loaded))


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


def _check_regular(root: Path, relative: str) -> None:
    """Neither the file nor a folder on the way to it may be a link; the file must be a file."""
    path = root / relative
    for step in (*reversed(Path(relative).parents[:-1]), Path(relative)):
        try:
            mode = (root / step).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(str(path), got="no such file", expected="a file", remedy=_REMEDY) from error
        if stat.S_ISLNK(mode):
            raise BundleError(str(root / step), got="a link", expected="a file of the bundle's own", remedy=_REMEDY)
    if not stat.S_ISREG(mode):
        raise BundleError(str(path), got="something that is not a file", expected="a file", remedy=_REMEDY)


def _check_nothing_else(root: Path, manifest: Manifest) -> None:
    """An unlisted file may change what a runtime does (a plugin, a sidecar), so it is refused."""
    listed = {MANIFEST_FILE, *(entry.path for entry in manifest.files)}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if (path.is_symlink() or not path.is_dir()) and relative not in listed:
            got, expected = "a file that the manifest does not list", f"only the {len(listed)} files of the bundle"
            raise BundleError(str(path), got=got, expected=expected, remedy="remove it, or export the bundle again")


def _check_size(root: Path, entry: FileEntry) -> None:
    _check_regular(root, entry.path)
    size = (root / entry.path).stat().st_size
    if size != entry.size:
        raise BundleError(str(root / entry.path), got=f"{size} bytes", expected=f"{entry.size} bytes", remedy=_REMEDY)


def _check_content(root: Path, entry: FileEntry) -> None:
    digest = sha256_file(root / entry.path)
    if digest != entry.sha256:
        got, expected = f"SHA-256 {digest[:12]}…", f"{entry.sha256[:12]}…"
        raise BundleError(str(root / entry.path), got=got, expected=expected, remedy=_REMEDY)
