"""What runtimes compiled, kept between processes in a folder that others may write to as well.

Compiled code is as good as a graph, so nothing of it runs unless this user has put it there: every file begins with an
HMAC-SHA256 of its name and content, whose key lies in the user's own cache (`private_folder.user_cache`). A name holds
the hash of all that the content follows from, so what is found is what would be compiled.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path

from vqrae.runtimes.errors import StorageError, storage_error
from vqrae.runtimes.private_folder import user_cache
from vqrae.runtimes.renames import sync
from vqrae.runtimes.staging import staged_file

_KEY_FILE = "compile-cache.key"
_KEY_BYTES = _MAC_BYTES = 32


class CompileCache:
    """A folder of compiled code."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made when something is kept.

        Raises:
            StorageError: there is no place for the key that only this user may change.
        """
        self._folder = folder
        self._key = _key(user_cache() / _KEY_FILE)

    def names(self, prefix: str) -> list[str]:
        """The names that begin so, of whatever lies there."""
        return sorted(path.name for path in self._folder.glob(f"{prefix}*") if not path.is_symlink())

    def read(self, name: str) -> bytes | None:
        """What was kept under a name; None if there is nothing, or it is not what this user has kept.

        Raises:
            StorageError: the file cannot be read.
        """
        path = self._folder / name
        try:
            kept = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            raise storage_error(path, error) from error
        mac, content = kept[:_MAC_BYTES], kept[_MAC_BYTES:]
        return content if hmac.compare_digest(mac, self._mac(name, content)) else None

    def keep(self, name: str, content: bytes) -> None:
        """Keep something under a name, in place of what was there.

        Raises:
            StorageError: the file cannot be written.
        """
        # Without a lock: several processes share the folder, and the last one wins.
        with staged_file(self._folder / name, lock=False) as staging, staging.open("wb") as file:
            file.write(self._mac(name, content))
            file.write(content)

    def _mac(self, name: str, content: bytes) -> bytes:
        mac = hmac.new(self._key, name.encode() + b"\0", hashlib.sha256)
        mac.update(content)
        return mac.digest()


@cache
def _key(path: Path) -> bytes:
    """The user's key; the first process makes it, the others wait for nothing: a link appears whole or not at all."""
    try:
        if not path.exists():
            made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            sync(made)  # a power cut must not leave a name without a key
            try:
                with suppress(FileExistsError):  # another process was first
                    os.link(made, path)
            finally:
                made.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise storage_error(path, error) from error
    if len(key) != _KEY_BYTES:  # anyone could guess an empty one
        expected, remedy = f"a key of {_KEY_BYTES} bytes", "delete it: what was kept is compiled again"
        raise StorageError(str(path), got=f"{len(key)} bytes", expected=expected, remedy=remedy)
    return key
