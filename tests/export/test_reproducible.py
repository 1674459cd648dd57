"""The same command gives the same bytes: all that differs between two bundles is when they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqrae.calibration.images import CalibrationImages
from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.bundle_writer import creation_time
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.speed import GraphSpeed
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.runtimes.errors import UsageError

TARGETS = [("onnx", "fp16"), ("onnx", "int8"), ("openvino", "int8"), ("openvino", "int8-weights"), ("coreml", "fp16")]


def untimed(*_: object) -> dict[str, GraphSpeed]:
    """At this size it would be a verdict on noise."""
    return {}


def built(checkpoint: Path, calibration: CalibrationImages, folder: Path, year: int) -> Path:
    """All targets, by a builder of their own, as a fresh process would have one."""
    images = parity_images(None, (32, 32), 4)
    with (
        pytest.MonkeyPatch.context() as patch,
        BundleBuilder(
            VqraeTokenizer(open_checkpoint(str(checkpoint))), images, lambda _: None, calibration, untimed
        ) as builder,
    ):
        patch.setenv("SOURCE_DATE_EPOCH", str((year - 1970) * 365 * 86400))
        for name, precision in TARGETS:
            builder.build(target(name, precision), folder)
    return folder


@pytest.fixture(scope="module")
def twice(
    shallow_checkpoint: Path, calibration: CalibrationImages, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    first, second = (
        built(shallow_checkpoint, calibration, tmp_path_factory.mktemp(f"in-{year}"), year) for year in (2001, 2002)
    )
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), TARGETS)
def test_two_builds_differ_in_one_field(twice: tuple[Path, Path], name: str, precision: str) -> None:
    first, second = (folder / f"test-siglip-{name}-{precision}" for folder in twice)
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    assert files == {path.relative_to(second) for path in second.rglob("*") if path.is_file()}
    assert {file for file in files if (first / file).read_bytes() != (second / file).read_bytes()} == {
        Path("manifest.json")
    }
    manifests = [json.loads((folder / "manifest.json").read_bytes()) for folder in (first, second)]
    assert {key for key in manifests[0] if manifests[0][key] != manifests[1][key]} == {"created"}


def test_the_moment_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert creation_time() == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH: got yesterday"):
        creation_time()
