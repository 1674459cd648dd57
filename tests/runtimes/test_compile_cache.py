"""Family "Bytes" (fault 53): of what lies in a folder that others may write to, only what this user kept is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqrae.runtimes import compile_cache
from vqrae.runtimes.compile_cache import CompileCache
from vqrae.runtimes.errors import StorageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def test_what_was_kept_comes_back_and_nothing_else_does(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "cache")
    assert cache.read("a-1") is None
    cache.keep("a-1", b"compiled")
    assert CompileCache(tmp_path / "cache").read("a-1") == b"compiled"
    assert cache.names("a-") == ["a-1"]
    kept = (tmp_path / "cache" / "a-1").read_bytes()
    for name, content in (("a-2", kept), ("a-1", kept + b"x"), ("a-1", kept[:10]), ("a-1", b"")):
        (tmp_path / "cache" / name).write_bytes(content)
        assert cache.read(name) is None, "under another name, changed, cut or empty"


def test_another_users_key_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CompileCache(tmp_path / "cache").keep("a", b"compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert CompileCache(tmp_path / "cache").read("a") is None


def test_a_key_that_was_cut_is_refused(tmp_path: Path) -> None:
    CompileCache(tmp_path / "cache")
    key = tmp_path / "home" / "vqrae" / "compile-cache.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"")
    compile_cache._key.cache_clear()
    with pytest.raises(StorageError, match=r"compile-cache\.key: got 0 bytes; expected a key of 32 bytes; delete it"):
        CompileCache(tmp_path / "cache")
