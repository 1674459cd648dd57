"""A precision of one's own: a row of the table, and the form of its graphs where they are traced in one of their own.

No file of the product is edited: the rows are set in this process.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from vqrae.export.build import BundleBuilder
from vqrae.export.comparison import verify_bundles
from vqrae.export.form import FORMS, FP16
from vqrae.export.formats import target
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import GateFailure, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Manifest, manifest_schema, read_manifest
from vqrae.runtimes.precision import PRECISIONS, Precision
from vqrae.runtimes.selftest import selftest


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> str:
    """FP16 with another scale of bytes, and a laxer limit."""
    row = PRECISIONS["fp16"]
    monkeypatch.setitem(PRECISIONS, "toy-half", replace(row, limits=replace(row.limits, min_token_agreement=0.9)))
    monkeypatch.setitem(FORMS, "toy-half", replace(FP16, byte_scale=2.0**-7))
    return "toy-half"


def test_a_row_is_enough_for_export_verify_and_selftest(half: str, builder: BundleBuilder, tmp_path: Path) -> None:
    row = builder.build(target("onnx", half), tmp_path)
    manifest = read_manifest(Path(row.bundle) / "manifest.json")
    assert (row.precision, row.gate, row.misses) == (half, "pass", ())
    assert manifest.precision.title == "TOY half"
    assert manifest.precision.kept_float == FP16.kept_float
    assert manifest.precision.limits.min_token_agreement == 0.9
    assert (selftest(row.bundle).precision, selftest(row.bundle).gate) == (half, "pass")
    (again,) = verify_bundles([Bundle.open(row.bundle)], builder.reference, LoadOptions(), lambda _: None)
    assert (again.precision, again.gate, again.figures.token_agreement) == (half, "pass", row.figures.token_agreement)


def test_its_limits_are_what_it_is_judged_by(
    half: str, builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PRECISIONS[half]
    monkeypatch.setitem(PRECISIONS, half, replace(row, limits=replace(row.limits, min_decode_psnr_db=1000)))
    with pytest.raises(GateFailure, match=r"decode PSNR .* dB, gate >= 1000 dB"):
        builder.build(target("onnx", half), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_whole_numbers_need_no_form(
    builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRECISIONS, "toy-stored", PRECISIONS["int8-weights"])
    row = builder.build(target("onnx", "toy-stored"), tmp_path)
    assert (row.precision, row.gate) == ("toy-stored", "pass")
    assert row.speedup is not None, "it was timed, and not judged by it"


def test_a_format_takes_what_its_writer_can_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRECISIONS, "bf16", replace(PRECISIONS["fp16"], weights="bf16", activations="bf16"))
    with pytest.raises(UsageError, match="precision of onnx: got 'bf16'"):
        target("onnx", "bf16")


def test_the_published_schema_holds_only_the_published_precisions(half: str) -> None:
    published = manifest_schema()["$defs"]["Precision"]["properties"]["name"]
    assert published["enum"] == ["fp32", "fp16", "int8", "int8-weights"]
    assert Precision(name=half).name == half
    assert Manifest.model_json_schema() == manifest_schema()
    with pytest.raises(ValidationError, match="Input should be 'fp32', 'fp16', 'int8', 'int8-weights' or 'toy-half'"):
        Precision(name="toy")
