"""A bundle that several processes open, at different times: all of them the same one."""

from __future__ import annotations

from pathlib import Path

from vqrae.runtimes.bundle import Bundle, sha256_file
from vqrae.runtimes.errors import BundleError, storage_error
from vqrae.runtimes.manifest import MANIFEST_FILE


def manifest_sha256(bundle: Bundle) -> str:
    """What stands for a bundle: the hash of its manifest, which holds the hashes of everything else."""
    return sha256_file(bundle.path / MANIFEST_FILE)


def open_pinned(path: Path, sha256: str) -> Bundle:
    """Verify a bundle, and that it is the one that another process has opened.

    Raises:
        BundleError: it is invalid, or another one by now.
        StorageError: the operating system refused to read.
    """
    try:
        found = sha256_file(path / MANIFEST_FILE)
    except OSError as error:
        raise storage_error(path / MANIFEST_FILE, error) from error
    if found != sha256:
        got, expected = f"manifest {found[:12]}…", f"{sha256[:12]}…, as when this was started"
        raise BundleError(str(path), got=got, expected=expected, remedy="put it back, or start again")
    return Bundle.open(path)
