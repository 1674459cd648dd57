"""Coverage-guided fuzzing of what reads foreign bytes; libFuzzer stops at whatever is no error of ours, or takes long.

python tests/support/fuzz_readers.py {manifest,archive} CORPUS -runs=10000
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["vqrae.runtimes", "tarfile"]):
    from vqrae.runtimes.archive import unpack
    from vqrae.runtimes.errors import VqraeError
    from vqrae.runtimes.manifest import parse_manifest


def a_manifest(data: bytes) -> None:
    """Read it; what was read has to come back from what is written of it."""
    try:
        manifest = parse_manifest("manifest.json", data)
    except VqraeError:
        return
    again = parse_manifest("manifest.json", manifest.to_json().encode())
    assert again == manifest, "another manifest came back"


def an_archive(data: bytes) -> None:
    """Unpack it; nothing may appear but the bundle's folder."""
    with TemporaryDirectory(prefix="vqrae-fuzz-") as name:
        folder = Path(name)
        (folder / "a.tar").write_bytes(data)
        try:
            unpack(folder / "a.tar", folder / "inner" / "bundle")
            expected = {"a.tar", "inner"}
        except VqraeError:
            expected = {"a.tar"}
        assert {path.name for path in folder.iterdir()} == expected, "something else was written, or left"


if __name__ == "__main__":
    targets = {"manifest": a_manifest, "archive": an_archive}
    atheris.Setup([sys.argv[0], *sys.argv[2:]], targets[sys.argv[1]])
    atheris.Fuzz()
