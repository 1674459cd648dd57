"""Manifests and archives that were tampered with at random.

No crash, no hang, nothing written elsewhere, and no error but those that are documented.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqrae.runtimes.archive import pack, unpack
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, VqraeError
from vqrae.runtimes.manifest import Manifest, parse_manifest

GOLDEN_JSON = Path(__file__).with_name("golden_manifest.json").read_bytes()
FUZZER = Path(__file__).parents[1] / "support" / "fuzz_readers.py"
# The same examples each time, so that a red build is a change's own fault; the deadline is what would be a hang.
BOUNDED = settings(
    max_examples=150, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["../x", "/x", "1.9", "2.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead there."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


PLACES = list(places(json.loads(GOLDEN_JSON)))


def tampered(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace stretches of bytes: at, how many, by what; positions wrap around."""
    for at, count, patch in edits:
        at %= len(content) + 1
        content = content[:at] + patch + content[at + count :]
    return content


EDITS = st.lists(
    st.tuples(st.integers(0, 2**20), st.sampled_from([0, 1, 1, 2, 12, 512]), st.binary(max_size=12)),
    min_size=1,
    max_size=4,
)


def check_line(error: VqraeError) -> None:
    """It can be printed, on one line."""
    assert "\n" not in str(error)
    str(error).encode()


def check_reading(content: bytes) -> None:
    """Only our error, in one line that can be printed; and what is accepted comes back from what is written of it."""
    try:
        manifest = parse_manifest("manifest.json", content)
    except BundleError as error:
        check_line(error)
        return
    again = parse_manifest("manifest.json", manifest.to_json().encode())
    assert again == manifest
    assert isinstance(again, Manifest)


@BOUNDED
@given(st.binary(max_size=300))
def test_any_bytes_as_a_manifest(content: bytes) -> None:
    check_reading(content)


@BOUNDED
@given(EDITS)
def test_a_manifest_with_other_bytes(edits: list[tuple[int, int, bytes]]) -> None:
    check_reading(tampered(GOLDEN_JSON, edits))


@BOUNDED
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=3))
def test_a_manifest_with_other_values(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    values = json.loads(GOLDEN_JSON)
    for (*parents, key), value in changes:
        record = values
        with suppress(KeyError, IndexError, TypeError):  # an earlier change took that place away
            for parent in parents:
                record = record[parent]
            record[key] = value
    check_reading(json.dumps(values).encode())


@pytest.fixture(scope="module")
def archive(pristine_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pack(pristine_bundle, tmp_path_factory.mktemp("archive") / "color.tar").read_bytes()


def check_unpacking(archive: bytes, original: Path) -> None:
    """The folder is there, whole and as it was, or nothing is."""
    with TemporaryDirectory(prefix="vqrae-fuzz-") as name:
        folder = Path(name)
        (folder / "a.tar").write_bytes(archive)
        try:
            unpack(folder / "a.tar", folder / "inner" / "bundle")
        except VqraeError as error:
            check_line(error)
            assert [path.name for path in folder.iterdir()] == ["a.tar"]
        else:
            assert sorted(path.name for path in folder.iterdir()) == ["a.tar", "inner"]
            assert [path.name for path in (folder / "inner").iterdir()] == ["bundle"]
            found = Bundle.open(folder / "inner" / "bundle").manifest.files
            assert found == Bundle.open(original).manifest.files


@BOUNDED
@given(edits=EDITS)
def test_an_archive_with_other_bytes(
    archive: bytes, pristine_bundle: Path, edits: list[tuple[int, int, bytes]]
) -> None:
    check_unpacking(tampered(archive, edits), pristine_bundle)


FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "type": (156, 1),
    "link": (157, 100),
    "rest": (257, 255),
}
NAMES = [b"../../x", b"/tmp/x", b"manifest.json", b"encode.onnx"]
TYPES = [b"1", b"5", b"7", b"L", b"S", b"g", b"x"]
SIZES = [b"77777777777\0", b"\x80" * 12, b"\xff" * 12]
VALUES = st.binary(max_size=16) | st.sampled_from(NAMES + TYPES + SIZES)
CHANGES = st.lists(st.tuples(st.sampled_from(sorted(FIELDS)), VALUES), min_size=1, max_size=3)


@BOUNDED
@given(header=st.integers(0, 10), changes=CHANGES)
def test_an_archive_with_other_headers(
    archive: bytes, pristine_bundle: Path, header: int, changes: list[tuple[str, bytes]]
) -> None:
    """With a right checksum, so that what the header says has to be looked at."""
    starts = header_starts(archive)
    start = starts[header % len(starts)]
    block = bytearray(archive[start : start + 512])
    for field, value in changes:
        at, length = FIELDS[field]
        block[at : at + length] = value[:length].ljust(length, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    check_unpacking(archive[:start] + bytes(block) + archive[start + 512 :], pristine_bundle)


def header_starts(archive: bytes) -> list[int]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(archive)
        with tarfile.open(path) as tar:
            return [member.offset for member in tar]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="no coverage-guided fuzzing: atheris is not installed here")
@pytest.mark.parametrize(("target", "runs"), [("manifest", 4000), ("archive", 500)])
def test_coverage_guided(archive: bytes, tmp_path: Path, target: str, runs: int) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(GOLDEN_JSON if target == "manifest" else archive)
    limits = (f"-runs={runs}", "-timeout=5", "-rss_limit_mb=2048", "-max_total_time=60", "-seed=7", f"-max_len={2**17}")
    command = [sys.executable, FUZZER, target, corpus, *limits, f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr, "it ran to its end"


@pytest.mark.slow
def test_inputs_of_every_kind(exported: Path) -> None:
    """More of them, and other seeds: `python tests/support/fuzz_inputs.py BUNDLE --cases 10000`."""
    command = [sys.executable, FUZZER.with_name("fuzz_inputs.py"), exported, "--cases", "2000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FUZZER.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert '"cases": 2000' in done.stdout
