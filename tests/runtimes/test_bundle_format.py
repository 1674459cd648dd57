"""The page "The bundle format", sentence by sentence: each numbered one is broken, and the reader has to refuse it.

A sentence that is added to the page fails here until it is broken too, or is named with the test that holds it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from vqrae.runtimes.archive import pack, unpack
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import BundleError, InvalidInput
from vqrae.runtimes.manifest import FORMAT_VERSION, MANIFEST_FILE, MAX_MANIFEST_BYTES
from vqrae.runtimes.preprocess import RULE
from vqrae.runtimes.selftest import selftest
from vqrae.runtimes.signature import SIGNATURE_BYTES, make_keys, signature_path
from vqrae.runtimes.tokenizer import load

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "bundle-format.md").read_text(encoding="utf-8")


class Case(NamedTuple):
    """One way to break a sentence of the page."""

    section: str
    number: int
    broken: Callable[[Path], None]


def manifest(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the manifest's values."""

    def edit(bundle: Path) -> None:
        path = bundle / MANIFEST_FILE
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")

    return edit


def text(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the manifest's bytes."""
    return lambda bundle: (bundle / MANIFEST_FILE).write_bytes(change((bundle / MANIFEST_FILE).read_bytes())) and None


def listed(path: str) -> Callable[[Path], None]:
    return manifest(lambda values: values["files"].append({"path": path, "size": 0, "sha256": "0" * 64}))


def pipe(bundle: Path) -> None:
    (bundle / "encode.onnx").unlink()
    os.mkfifo(bundle / "encode.onnx")


def code_in_it(bundle: Path) -> None:
    """A pickle where an array belongs, listed as it is."""
    path = bundle / "golden" / "margins.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    entry = {"path": "golden/margins.npy", "size": path.stat().st_size}
    values = json.loads((bundle / MANIFEST_FILE).read_text())
    sha256 = sha256_file(path)
    values["files"] = [f | entry | {"sha256": sha256} if f["path"] == entry["path"] else f for f in values["files"]]
    (bundle / MANIFEST_FILE).write_text(json.dumps(values))


CASES = [
    Case("The folder", 1, lambda bundle: (bundle / MANIFEST_FILE).unlink()),
    Case("The folder", 2, lambda bundle: (bundle / "plugin.so").touch()),
    Case("The folder", 2, lambda bundle: (bundle / "decode.onnx").unlink()),
    Case("The folder", 2, lambda bundle: (bundle / "decode.onnx").write_bytes(b"") and None),
    Case("The folder", 3, pipe),
    Case("The folder", 4, code_in_it),
    Case("The manifest", 1, text(lambda content: b"\xef\xbb\xbf" + content)),
    Case("The manifest", 1, text(lambda content: content.decode().encode("utf-16"))),
    Case("The manifest", 1, text(lambda content: content.replace(b'"name"', b'"name": "a", "name"', 1))),
    Case("The manifest", 1, text(lambda content: content.replace(b'"noise": 0.01', b'"noise": NaN'))),
    Case("The manifest", 1, text(lambda content: content + b" " * MAX_MANIFEST_BYTES)),
    Case("The manifest", 2, manifest(lambda values: values.update(format="other"))),
    Case("The manifest", 2, manifest(lambda values: values.update(format_version="2.0"))),
    Case("The manifest", 2, manifest(lambda values: values.update(color="blue"))),
    *(
        Case("The manifest", 3, listed(path))
        for path in ("/etc/passwd", "../up", "a/../b", "./a", "a\\b", "C:a", "a\0", "")
    ),
    *(Case("The manifest", 4, listed(path)) for path in ("encode.onnx", "ENCODE.onnx", "encode.onnx/a", MANIFEST_FILE)),
    Case("The manifest", 5, manifest(lambda values: values.update(graphs={}))),
    Case("The manifest", 5, manifest(lambda values: values["graphs"]["encode"].update(file="other.onnx"))),
    Case("The manifest", 6, manifest(lambda values: values["graphs"]["encode"]["inputs"][0].update(dtype="float32"))),
    Case("The manifest", 6, manifest(lambda values: values["graphs"]["decode"]["outputs"][0].update(shape=[1, 8]))),
    Case("The manifest", 8, manifest(lambda values: values["preprocessing"].update(rule="nearest/1"))),
    Case("The manifest", 9, manifest(lambda values: values["evidence"].update(executed=False))),
    Case("The manifest", 9, manifest(lambda values: values["evidence"].update(figures=None))),
]
HELD_BY = {
    ("The manifest", 7): "test_coreml_session.py",
    ("The manifest", 10): "test_manifest.py",
    **{("Images", number): "test_preprocess.py" for number in range(1, 5)},
    ("Golden samples", 1): "test_selftest.py",
    ("Golden samples", 2): "test_selftest.py",
    **{("One file", number): "test_archive.py" for number in range(1, 6)},
    **{("Signatures", number): "test_signature.py" for number in range(1, 4)},
}
"""Sentences about more than a bundle's folder, and where they are held."""


def sentences() -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        for number, sentence in re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", body, re.MULTILINE):
            found[title, int(number)] = sentence
    return found


def test_every_sentence_is_held() -> None:
    assert {(case.section, case.number) for case in CASES} | set(HELD_BY) == set(sentences())
    assert all((Path(__file__).parent / name).is_file() for name in HELD_BY.values())


def test_the_page_says_must_where_it_binds() -> None:
    rules = {place: sentence for place, sentence in sentences().items() if place[0] != "Images"}
    assert all(re.search(r"\bMUST\b|\bmay need code\b", sentence) for sentence in rules.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section.split()[-1]} {case.number}")
def test_a_broken_sentence_is_refused(bundle: Path, case: Case) -> None:
    case.broken(bundle)
    with pytest.raises(BundleError):
        selftest(bundle)


def test_a_newer_minor_version_may_say_more(bundle: Path) -> None:
    major = FORMAT_VERSION.split(".")[0]
    manifest(lambda values: values.update(color="blue", format_version=f"{major}.999"))(bundle)
    assert selftest(bundle).gate == "pass"


def test_the_numbers_of_the_page_are_those_of_the_code(bundle: Path, tmp_path: Path) -> None:
    assert PAGE.startswith(f"# The bundle format\n\nVersion {FORMAT_VERSION}. ")
    assert f"at most {MAX_MANIFEST_BYTES // 2**20} MiB" in PAGE
    assert f"`{RULE}` turns any image" in PAGE
    assert f"the {SIGNATURE_BYTES} bytes of an ed25519 signature" in PAGE
    assert signature_path(bundle).name == f"{bundle.name}.sig"
    archive = pack(bundle, tmp_path / "color.tar")
    assert archive.stat().st_size % tarfile.RECORDSIZE == 0
    assert f"{tarfile.BLOCKSIZE} bytes before each file" in PAGE
    assert f"next multiple of {tarfile.RECORDSIZE}" in PAGE


def test_a_reader_in_a_few_lines_reads_an_archive_by_the_page_alone(bundle: Path, tmp_path: Path) -> None:
    """Without a tar library: headers are skipped, for the manifest says all that they do."""
    content = pack(bundle, tmp_path / "color.tar").read_bytes()
    size = int(content[124:135], 8)
    listing = json.loads(content[512 : 512 + size])
    start = 512 + size + -size % 512
    for entry in listing["files"]:
        found = content[start + 512 : start + 512 + entry["size"]]
        assert found == (bundle / entry["path"]).read_bytes()
        start += 512 + entry["size"] + -entry["size"] % 512
    assert len(content) - start >= 1024
    assert not any(content[start:])


def test_exit_code_5_is_that_of_every_refusal(bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(pack(bundle, tmp_path / "color.tar"), tmp_path / "cut.tar")
    with (tmp_path / "cut.tar").open("r+b") as file:
        file.truncate(5000)
    _, public = make_keys(tmp_path / "ours")
    for refused in (
        lambda: unpack(tmp_path / "cut.tar", tmp_path / "again"),
        lambda: load(bundle, public_key=public),
        lambda: load(tmp_path / "color.tar"),
    ):
        with pytest.raises(InvalidInput) as caught:
            refused()
        assert caught.value.exit_code == 5
