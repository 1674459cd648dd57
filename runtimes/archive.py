"""A bundle as one file, for shipping: a plain tar whose every byte follows from the manifest.

Why a tar, not compressed: weights hardly shrink, equal bundles give equal bytes whatever packed them, any system can
list it, and what comes out is never larger than what was sent. Why it is safe to unpack: the manifest comes first and
says which file follows, and how long it is. A header that says anything else, be it a path outside, a link, a device, a
name twice or another size, is not the one that has to follow; so nothing in an archive is ever obeyed.

1. An archive MUST be a POSIX ustar archive of regular files only: `manifest.json`, then its `files` in their order.
2. Its length MUST follow from the manifest: a block of 512 bytes before each file, its content filled up with zeros to
   whole blocks, two blocks of zeros at the end, and zeros to the next multiple of 10240 bytes.
3. A writer MUST set mode 0644, owner and time 0, and no names of owners. A reader MUST ignore them.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import IO

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, UsageError, storage_error
from vqrae.runtimes.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileEntry, Manifest, parse_manifest
from vqrae.runtimes.outputs import TARS, check_apart, check_suffix
from vqrae.runtimes.signature import check_signature
from vqrae.runtimes.staging import check_new_file, check_new_folder, check_room, staged_file, staged_folder

BLOCK = tarfile.BLOCKSIZE
_PIECE = 2**20
"""Bytes copied at a time."""
_KINDS = {
    tarfile.REGTYPE: "a file",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_REMEDY = "pack it again with `vqrae pack`"


def pack(bundle: Path | str, archive: Path | str) -> Path:
    """Write a bundle as one archive; equal bundles give equal bytes.

    Args:
        bundle: the bundle's folder; every hash is checked first.
        archive: the file to write; one that is there is replaced.

    Returns:
        The archive.

    Raises:
        BundleError: the bundle is incomplete or changed, or a path or file is too long for a tar (255 bytes, 8 GiB).
        UsageError: `archive` is a folder, or lies inside the bundle, or is called something else than `.tar`.
        StorageError: the operating system refused to read or write.
    """
    target = Path(archive)
    check_suffix(target, TARS)
    if target.resolve().is_relative_to(Path(bundle).resolve()):
        raise UsageError(str(target), got="a file inside the bundle", expected="one elsewhere")
    check_new_file(target)
    opened = Bundle.open(bundle)
    with (
        staged_file(target, size=sum(entry.size for entry in opened.manifest.files)) as staging,
        tarfile.open(staging, "w", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar,
    ):
        _add(tar, target, MANIFEST_FILE, len(opened.text), io.BytesIO(opened.text))
        for entry in opened.manifest.files:
            with opened.reading(entry.path) as content:
                _add(tar, target, entry.path, entry.size, content)
    return target


def manifest_bytes(bundle: Path | str) -> bytes:
    """The bytes of a bundle's manifest, which a signature signs; of a folder, every hash is checked first.

    Args:
        bundle: the bundle's folder or archive.

    Raises:
        BundleError: the folder is incomplete or changed, the archive has another length, or the manifest is invalid.
        StorageError: the operating system refused to read it.
    """
    if Path(bundle).is_dir():
        return Bundle.open(bundle).text
    with _opened(bundle) as file:
        return _read_manifest(Path(bundle), file, None)[0]


def unpack(
    archive: Path | str, folder: Path | str, *, overwrite: bool = False, public_key: Path | str | None = None
) -> Bundle:
    """Write an archive's bundle as a folder, whole or not at all.

    Only names that the manifest lists are written, below a new folder, each once and with the size that it says; the
    archive's length is compared with that before the first byte is written. Each file's hash is checked as it comes.

    Args:
        archive: the file, from anywhere.
        folder: the bundle's folder to make.
        overwrite: whether a folder that is there is replaced.
        public_key: file of the key that must have signed it; the signature lies beside it, as `ARCHIVE.sig`.

    Raises:
        BundleError: it is no packed bundle, or not what its manifest says.
        SignatureError: it is not signed by that key.
        UsageError: `folder` exists and `overwrite` is false, or is a file.
        StorageError: the disk has no room for it, or the operating system refused to read or write.
    """
    check_apart({"the folder": Path(folder)}, [archive])
    check_new_folder(folder, overwrite=overwrite)
    with _opened(archive) as file:
        text, manifest = _read_manifest(Path(archive), file, public_key)
        with staged_folder(folder, overwrite=overwrite) as staging:
            check_room(Path(folder), sum(entry.size for entry in manifest.files))
            (staging / MANIFEST_FILE).write_bytes(text)
            for entry in manifest.files:
                _check_header(archive, file, entry)
                _copy(archive, file, entry, staging)
            while rest := file.read(_PIECE):
                _check_zeros(archive, rest)
    return Bundle(Path(folder), manifest, text)


def _add(tar: tarfile.TarFile, archive: Path, path: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(path)  # its defaults are mode 0644, and zero or nothing for the rest
    member.size = size
    try:
        tar.addfile(member, content)
    except ValueError as error:
        expected, remedy = "at most 255 bytes of path and 8 GiB of content", "ship the folder as it is"
        raise BundleError(f"{archive} member {path}", got=str(error), expected=expected, remedy=remedy) from error


def _opened(archive: Path | str) -> IO[bytes]:
    path = Path(archive)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise BundleError(str(path), got=got, expected="a packed bundle")
    try:
        return path.open("rb")
    except OSError as error:
        raise storage_error(path, error) from error


def _read_manifest(archive: Path, file: IO[bytes], public_key: Path | str | None) -> tuple[bytes, Manifest]:
    """What comes first: checked against the signature if a key is given, and then the archive's length against it."""
    member = _next_header(archive, file)
    if (member.name, member.type) != (MANIFEST_FILE, tarfile.REGTYPE) or not 0 <= member.size <= MAX_MANIFEST_BYTES:
        expected = f"the file {MANIFEST_FILE} of at most {MAX_MANIFEST_BYTES} bytes"
        raise BundleError(f"{archive} first member", got=_described(member), expected=expected, remedy=_REMEDY)
    text = file.read(member.size)
    if len(text) < member.size:
        raise _cut_off(archive)
    _check_zeros(archive, file.read(-member.size % BLOCK))
    if public_key is not None:
        check_signature(archive, text, public_key)
    manifest = parse_manifest(f"{archive} member {MANIFEST_FILE}", text)
    _check_length(archive, file, len(text), manifest)
    return text, manifest


def _check_length(archive: Path, file: IO[bytes], manifest_bytes: int, manifest: Manifest) -> None:
    """Before anything is written: the file is exactly as long as the manifest's sizes make it."""
    blocks = sum(1 + -(-size // BLOCK) for size in (manifest_bytes, *(entry.size for entry in manifest.files)))
    expected = -(-(blocks + 2) * BLOCK // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    here = file.tell()
    found = file.seek(0, io.SEEK_END)
    file.seek(here)
    if found != expected:
        wanted = f"{expected} bytes, as its manifest says"
        raise BundleError(str(archive), got=f"{found} bytes", expected=wanted, remedy=_REMEDY)


def _next_header(archive: Path | str, file: IO[bytes]) -> tarfile.TarInfo:
    block = file.read(BLOCK)
    if block and len(block) < BLOCK:
        raise _cut_off(archive)
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise BundleError(
            str(archive), got=f"no tar header ({error})", expected="a packed bundle", remedy=_REMEDY
        ) from error


def _check_header(archive: Path | str, file: IO[bytes], entry: FileEntry) -> None:
    """The manifest says what comes next; the header may only agree."""
    member = _next_header(archive, file)
    if (member.name, member.type, member.size) != (entry.path, tarfile.REGTYPE, entry.size):
        expected = f"the file {entry.path} of {entry.size} bytes, as the manifest says"
        raise BundleError(str(archive), got=_described(member), expected=expected, remedy=_REMEDY)


def _copy(archive: Path | str, file: IO[bytes], entry: FileEntry, staging: Path) -> None:
    target = staging / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    left, digest = entry.size, hashlib.sha256()
    with target.open("xb") as output:
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise _cut_off(archive)
            output.write(piece)
            digest.update(piece)
            left -= len(piece)
    if digest.hexdigest() != entry.sha256:
        got, expected = f"SHA-256 {digest.hexdigest()[:12]}…", f"{entry.sha256[:12]}…"
        raise BundleError(f"{archive} member {entry.path}", got=got, expected=expected, remedy=_REMEDY)
    _check_zeros(archive, file.read(-entry.size % BLOCK))


def _check_zeros(archive: Path | str, filling: bytes) -> None:
    if filling.strip(b"\0"):
        raise BundleError(str(archive), got="content that no file owns", expected="zeros there", remedy=_REMEDY)


def _described(member: tarfile.TarInfo) -> str:
    kind = _KINDS.get(member.type, f"a member of type {member.type!r}")
    return f"{kind} {member.name[:80]!r} of {member.size} bytes"


def _cut_off(archive: Path | str) -> BundleError:
    return BundleError(str(archive), got="a file that is cut off", expected="a whole archive", remedy=_REMEDY)
