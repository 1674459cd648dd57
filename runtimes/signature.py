"""Detached signatures: who vouches for a bundle.

A signature is the 64 bytes of an ed25519 signature over the bytes of `manifest.json`, which hold the hash of every
other file. It lies beside what it signs: `BUNDLE.sig` for a folder, `ARCHIVE.sig` for a packed one; both are the same
bytes, since both hold the same manifest. Keys are PEM files, so any other tool can check a signature too:
`openssl pkeyutl -verify -rawin -pubin -inkey KEY.pub -in BUNDLE/manifest.json -sigfile BUNDLE.sig`.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType

from vqrae.runtimes.errors import RuntimeUnavailable, SignatureError, storage_error
from vqrae.runtimes.staging import staged_file, write_output

SIGNATURE_SUFFIX = ".sig"
SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 2**16


def signature_path(signed: Path | str) -> Path:
    """Where the signature of a bundle's folder or archive lies. Of a link, it is that of what the link names."""
    path = Path(signed).resolve()
    return path.with_name(path.name + SIGNATURE_SUFFIX)


def make_keys(path: Path | str) -> tuple[Path, Path]:
    """Make a key pair.

    Args:
        path: the files' name without an ending.

    Returns:
        The private key's file `PATH.key`, which only its owner may read, and the public one's, `PATH.pub`.

    Raises:
        UsageError: one of them exists: a lost private key cannot be made again.
        RuntimeUnavailable: `cryptography` is not installed.
        StorageError: the operating system refused to write.
    """
    private, public = (Path(f"{path}{ending}") for ending in (".key", ".pub"))
    private_pem, public_pem = _ed25519().new_pair()
    with (
        staged_file(private, overwrite=False) as private_staging,
        staged_file(public, overwrite=False) as public_staging,
    ):
        with os.fdopen(os.open(private_staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as owners:
            owners.write(private_pem)
        public_staging.write_bytes(public_pem)
    return private, public


def write_signature(signed: Path | str, manifest: bytes, private_key: Path | str) -> Path:
    """Write the signature of a bundle, replacing one that is there.

    Args:
        signed: the bundle's folder or archive.
        manifest: the bytes of its manifest.
        private_key: the key's file.

    Returns:
        The signature's file.

    Raises:
        SignatureError: the key's file holds no ed25519 private key, or one with a password.
        RuntimeUnavailable: `cryptography` is not installed.
        StorageError: the operating system refused to read or write.
    """
    ed25519, pem = _ed25519(), _read(Path(private_key), _MAX_KEY_BYTES, expected="a private key")
    try:
        signature = ed25519.signature_of(manifest, pem)
    except ValueError as error:
        raise _no_key(private_key, "private", error) from error
    target = signature_path(signed)
    write_output(target, signature)
    return target


def check_signature(signed: Path | str, manifest: bytes, public_key: Path | str) -> None:
    """Check that a bundle is signed by a key.

    Args:
        signed: the bundle's folder or archive, beside which the signature lies.
        manifest: the bytes of its manifest.
        public_key: the key's file.

    Raises:
        SignatureError: there is no signature, it is not of these bytes by this key, or the key's file holds no ed25519
            public key.
        RuntimeUnavailable: `cryptography` is not installed.
        StorageError: the operating system refused to read.
    """
    ed25519, pem = _ed25519(), _read(Path(public_key), _MAX_KEY_BYTES, expected="a public key")
    path = signature_path(signed)
    signature = _read(path, SIGNATURE_BYTES, expected="the bundle's signature, from whoever made it")
    try:
        valid = ed25519.is_signed(manifest, signature, pem)
    except ValueError as error:
        raise _no_key(public_key, "public", error) from error
    if not valid:
        expected, remedy = f"one of this manifest by {public_key}", "do not use the bundle; ask whoever made it"
        raise SignatureError(str(path), got="another signature", expected=expected, remedy=remedy)


def _no_key(path: Path | str, kind: str, error: ValueError) -> SignatureError:
    expected = f"an ed25519 {kind} key in PEM, without a password"
    return SignatureError(str(path), got=str(error), expected=expected, remedy="make a pair with `vqrae keys`")


def _read(path: Path, most: int, *, expected: str) -> bytes:
    if not path.is_file():
        raise SignatureError(str(path), got="a folder" if path.is_dir() else "no such file", expected=expected)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise storage_error(path, error) from error
    if len(content) > most:
        raise SignatureError(str(path), got=f"more than {most} bytes", expected=expected)
    return content


def _ed25519() -> ModuleType:
    """Reached only where a key is given: bundles are read without `cryptography`."""
    try:
        return import_module("vqrae.runtimes.ed25519")
    except ModuleNotFoundError as error:
        remedy = "install it with `pip install 'vqrae[sign]'`"
        raise RuntimeUnavailable("cryptography", got="not installed", remedy=remedy) from error
