from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError
from vqrae.runtimes.evidence import Evidence, MarginHistogram
from vqrae.runtimes.manifest import (
    MAX_MANIFEST_BYTES,
    Calibration,
    FileEntry,
    Manifest,
    Tokens,
    least_version,
    manifest_schema,
    parse_manifest,
    read_manifest,
)
from vqrae.runtimes.precision import Budget, Precision, PrecisionName

GOLDEN_JSON = Path(__file__).with_name("golden_manifest.json")

MakeManifest = Callable[..., Manifest]
Values = dict[str, Any]


@pytest.fixture
def values(make_manifest: MakeManifest) -> Values:
    loaded: Values = json.loads(make_manifest().to_json())
    return loaded


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Manifest]:
    def write_and_read(content: Any) -> Manifest:
        path = tmp_path / "manifest.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read_manifest(path)

    return write_and_read


Read = Callable[[Any], Manifest]


def test_the_bytes_of_a_manifest_are_fixed(make_manifest: MakeManifest) -> None:
    """A change here is a change of the format: raise its version."""
    assert make_manifest().to_json() == GOLDEN_JSON.read_text(encoding="utf-8")
    assert read_manifest(GOLDEN_JSON) == make_manifest()


def test_equal_manifests_give_equal_bytes(make_manifest: MakeManifest) -> None:
    one = make_manifest(created_with={"a": "1", "b": "2"})
    other = make_manifest(created_with={"b": "2", "a": "1"})
    assert one.to_json() == other.to_json()


def test_a_manifest_cannot_be_changed(make_manifest: MakeManifest) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_manifest().name = "other"  # type: ignore[misc] # that is the point


def test_the_schema_names_every_field_of_the_golden_manifest() -> None:
    assert set(json.loads(GOLDEN_JSON.read_text())) == set(manifest_schema()["properties"])


def test_a_newer_major_version_is_refused(read: Read, values: Values) -> None:
    values["format_version"] = "2.0"
    message = r"got format version 2\.0; expected version 1\.x; upgrade vqrae, or export it again$"
    with pytest.raises(BundleError, match=message):
        read(values)


def test_an_older_major_version_is_refused(read: Read, values: Values) -> None:
    values["format_version"] = "0.9"
    with pytest.raises(BundleError, match=r"got format version 0\.9; expected version 1\.x; export it again$"):
        read(values)


def test_unknown_fields_of_a_newer_minor_version_are_ignored(read: Read, values: Values) -> None:
    values["format_version"] = "1.7"
    values["color"] = "blue"
    values["files"][1]["color"] = {"deep": 1}
    values["graphs"]["encode"]["inputs"][0]["color"] = "green"
    manifest = read(values)
    assert manifest.format_version == "1.7"
    assert manifest.name == "color-onnxruntime-fp32"


def test_a_newer_minor_version_is_still_validated(read: Read, values: Values) -> None:
    values |= {"format_version": "1.7", "color": "blue", "name": 3}
    with pytest.raises(BundleError, match="field name: got 3; expected a valid string"):
        read(values)


def test_unknown_fields_of_this_version_are_refused(read: Read, values: Values) -> None:
    values["tokens"]["color"] = "blue"
    with pytest.raises(BundleError, match=r"field tokens\.color: got an unknown field; expected a field of 1\.3"):
        read(values)


@pytest.mark.parametrize("version", [1, "1", "1.x", "", None, "1.0 ", "9" * 9 + ".0", "\u0661.\u0660"])
def test_a_version_that_is_none_is_refused(read: Read, values: Values, version: object) -> None:
    values["format_version"] = version
    with pytest.raises(BundleError, match=r"field format_version: got .*; expected '1\.3'"):
        read(values)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"\x00"])
def test_what_is_not_json_is_refused(read: Read, content: bytes) -> None:
    with pytest.raises(
        BundleError, match=r"manifest\.json: got invalid JSON .*; expected a manifest; export it again$"
    ):
        read(content)


@pytest.mark.parametrize("content", [b"[]", b"3", b"{}", b'{"format": "other"}'])
def test_other_json_is_refused(read: Read, content: bytes) -> None:
    with pytest.raises(BundleError, match="got another format; expected format 'vqrae-bundle'"):
        read(content)


def test_an_oversize_manifest_is_refused_before_it_is_parsed(read: Read) -> None:
    with pytest.raises(BundleError, match=f"got more than {MAX_MANIFEST_BYTES} bytes"):
        read(b"{" + b" " * MAX_MANIFEST_BYTES)


def test_the_first_bad_field_is_named_on_one_line(read: Read, values: Values) -> None:
    values["graphs"]["encode"]["inputs"][0]["dtype"] = "float64"
    with pytest.raises(BundleError) as caught:
        read(values)
    message = str(caught.value)
    assert "field graphs.encode.inputs.0.dtype: got 'float64'; expected 'uint8', 'int32' or 'float32'" in message
    assert "\n" not in message


def test_a_missing_field_is_named(read: Read, values: Values) -> None:
    del values["tokens"]["grid"]
    with pytest.raises(BundleError, match=r"field tokens\.grid: got no such field; expected a value; export it again$"):
        read(values)


def test_numbers_are_not_guessed_from_text(read: Read, values: Values) -> None:
    values["tokens"]["codebook_size"] = "16"
    with pytest.raises(BundleError, match=r"field tokens\.codebook_size: got '16'; expected a valid integer"):
        read(values)


PATHS_THAT_LEAVE = [
    "../x",
    "/etc/passwd",
    "a/../../x",
    "C:/x",
    "c:x",
    "a\\b",
    "",
    ".",
    "a//b",
    "./a",
    "a/",
    "a\0b",
    "a\nb",
]


@pytest.mark.parametrize("path", PATHS_THAT_LEAVE)
def test_a_path_that_leaves_the_folder_is_refused(read: Read, values: Values, path: str) -> None:
    values["files"][0]["path"] = path
    with pytest.raises(BundleError, match=r"field files\.0\.path: got .*; expected a relative path inside the bundle"):
        read(values)


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_an_accepted_path_stays_inside(path: str) -> None:
    try:
        entry = FileEntry(path=path, size=0, sha256="0" * 64)
    except ValidationError:
        return
    root = Path("/bundle")
    assert (root / entry.path).resolve().is_relative_to(root)
    assert (root / entry.path).resolve() != root


@pytest.mark.parametrize("digest", ["a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_a_digest_is_64_lowercase_hexadecimal_digits(read: Read, values: Values, digest: str) -> None:
    values["files"][0]["sha256"] = digest
    with pytest.raises(BundleError, match=r"field files\.0\.sha256"):
        read(values)


def test_a_graph_needs_its_file_listed(read: Read, values: Values) -> None:
    values["files"] = values["files"][:1]
    with pytest.raises(BundleError, match=r"expected the graphs' file encode\.onnx among the files"):
        read(values)


def test_a_file_is_listed_once(read: Read, values: Values) -> None:
    values["files"].append(values["files"][0] | {"path": "Encode.onnx"})
    with pytest.raises(BundleError, match="expected each file listed once"):
        read(values)


def test_the_manifest_is_not_among_its_own_files(read: Read, values: Values) -> None:
    values["files"].append(values["files"][0] | {"path": "manifest.json"})
    with pytest.raises(BundleError, match=r"expected manifest\.json not among its own files"):
        read(values)


def test_encode_and_decode_keep_their_signatures(read: Read, values: Values) -> None:
    values["graphs"]["decode"]["outputs"][0]["shape"] = ["batch", 12, 8, 3]
    message = r"expected the graph decode to be indices int32 \(batch, 2, 3\) -> images uint8 \(batch, 8, 12, 3\)"
    with pytest.raises(BundleError, match=message):
        read(values)


def test_the_size_of_images_is_bounded(read: Read, values: Values) -> None:
    values["preprocessing"]["height"] = 10**9
    with pytest.raises(BundleError, match=r"field preprocessing\.height: got 1000000000; expected less than or equal"):
        read(values)


def test_evidence_says_where_it_comes_from() -> None:
    with pytest.raises(ValidationError, match="a reason, because the bundle was not executed"):
        Evidence(executed=False, gate="not-executed")
    with pytest.raises(ValidationError, match="figures and a verdict, because the bundle was executed"):
        Evidence(executed=True, gate="pass")
    with pytest.raises(ValidationError, match="no figures and no verdict, because the bundle was not executed"):
        Evidence(executed=False, reason="no GPU", gate="pass")


def test_a_histogram_has_as_many_bins_of_tokens_as_of_mismatches() -> None:
    with pytest.raises(ValidationError, match="as many bins of tokens as of mismatches"):
        MarginHistogram(edges=(0.0, 1.0), tokens=(1,), mismatches=())


def test_figures_that_are_not_numbers_can_be_judged_but_not_written(make_manifest: MakeManifest) -> None:
    manifest = make_manifest()
    figures = manifest.evidence.figures
    assert figures is not None
    broken = figures.model_validate(figures.model_dump() | {"noise": float("nan")})
    evidence = manifest.evidence.model_copy(update={"figures": broken})
    with pytest.raises(BundleError, match="expected finite figures"):
        make_manifest(evidence=evidence).to_json()


@pytest.mark.parametrize(
    ("name", "share", "title"),
    [
        ("fp32", None, "FP32"),
        ("fp16", None, "FP16"),
        ("int8", None, "INT8"),
        ("int8", 1.0, "INT8"),
        ("int8", 0.5, "INT8"),
        ("int8", 0.4099, "mixed 41%"),
        ("int8", 0.0, "mixed 0%"),
        ("int8-weights", None, "INT8 weights"),
    ],
)
def test_int8_that_does_less_than_half_is_called_mixed(name: PrecisionName, share: float | None, title: str) -> None:
    assert Precision(name=name, int8_share=share).title == title


CALIBRATION = Calibration(image_sha256=("a" * 64,), count=1, seed=0, codebook_coverage=0.5, plan="plan.json")


def test_a_calibrated_manifest_reads_back(make_manifest: MakeManifest, read: Read) -> None:
    files = (*make_manifest().files, FileEntry(path="plan.json", size=1, sha256="d" * 64))
    precision = Precision(name="int8", int8_share=0.6, budget=Budget(max_excess_distortion=0.001))
    manifest = make_manifest(calibration=CALIBRATION, precision=precision, files=files)
    assert read(manifest.to_json().encode()) == manifest


def test_a_calibration_s_plan_is_among_the_files(make_manifest: MakeManifest) -> None:
    with pytest.raises(ValidationError, match=r"the plan plan\.json among the files"):
        make_manifest(calibration=CALIBRATION, precision=Precision(name="int8"))


def test_only_int8_is_calibrated(make_manifest: MakeManifest) -> None:
    files = (*make_manifest().files, FileEntry(path="plan.json", size=1, sha256="d" * 64))
    with pytest.raises(ValidationError, match="no calibration, because the precision is not int8"):
        make_manifest(calibration=CALIBRATION, files=files)


def test_the_published_schema_is_the_manifest_s() -> None:
    published = Path(__file__).parents[2] / "docs" / "reference" / "manifest.schema.json"
    assert json.loads(published.read_text()) == manifest_schema()


class TestHostileManifests:
    """Family "Bytes" (fault 43): time and memory of a parse are linear in its size, and text stays text."""

    def test_a_name_twice_among_many_is_found_at_once(self) -> None:
        names = ", ".join(f'"{"x" * 100}{n}": 0' for n in range(30_000))
        started = time.process_time()
        with pytest.raises(BundleError, match=r"invalid JSON \('last' is there twice\)"):
            parse_manifest("m", f'{{{names}, "last": 0, "last": 0}}'.encode())
        assert time.process_time() - started < 2

    @pytest.mark.parametrize("number", ["1e400", "-1e999"])
    def test_a_number_that_no_computer_holds_is_refused(self, values: Values, number: str) -> None:
        text = json.dumps(values).replace('"noise": 0.01', f'"noise": {number}')
        assert number in text
        with pytest.raises(BundleError, match=f"invalid JSON \\({number} is no number that a computer holds"):
            parse_manifest("m", text.encode())

    @pytest.mark.parametrize(
        ("path", "expected"), [("a/" * 100 + "b", "at most 16 names"), ("a" * 256, "at most 255 characters")]
    )
    def test_a_path_too_long_or_too_deep_is_refused(self, values: Values, path: str, expected: str) -> None:
        values["files"].append({"path": path, "size": 0, "sha256": "0" * 64})
        with pytest.raises(BundleError, match=expected):
            parse_manifest("m", json.dumps(values).encode())

    def test_many_deep_paths_take_linear_time(self, values: Values) -> None:
        folders = "/".join(["d" * 10] * 14)
        values["files"] += [
            {"path": f"{n:05}{folders}/f", "size": 0, "sha256": "0" * 64} for n in range(MAX_MANIFEST_BYTES // 300)
        ]
        started = time.process_time()
        parse_manifest("m", json.dumps(values).encode())
        assert time.process_time() - started < 2

    def test_a_tree_of_empty_folders_is_refused_whatever_its_depth(self, bundle: Path) -> None:
        folder = os.open(bundle, os.O_RDONLY)
        for _ in range(2000):
            os.mkdir("d", dir_fd=folder)
            inner = os.open("d", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inner
        os.close(folder)
        with pytest.raises(BundleError, match=r"color/d: got a file that the manifest does not list"):
            Bundle.open(bundle)
        subprocess.run(["/bin/rm", "-rf", bundle], check=True)  # Python's own way recurses

    def test_an_error_holds_no_control_characters(self, values: Values) -> None:
        values["format_version"] = "\x1b[2J\x1b]0;title\x07"
        values["\x1b[31mred\u202e"] = 1
        with pytest.raises(BundleError) as caught:
            parse_manifest("m\x1b[1m", json.dumps(values).encode())
        assert str(caught.value).isprintable()
        assert r"m\x1b[1m" in str(caught.value)


def test_a_bundle_with_everything_says_a_version_that_older_readers_take() -> None:
    whole = Tokens(grid=(2, 3), codebook_size=16, feature_width=4)
    assert "levels" not in whole.model_dump(mode="json")
    assert least_version(["decode", "encode"], whole) == "1.2"
    for graphs, changes in (
        (["encode"], {}),
        (["decode", "encode"], {"levels": 2}),
        (["encode"], {"feature_width": None}),
    ):
        assert least_version(graphs, whole.model_copy(update=changes)) == "1.3"
