from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vqrae
from vqrae.runtimes.errors import BundleError
from vqrae.runtimes.selftest import selftest

Rewrite = Callable[..., None]


def change(bundle: Path, name: str, value: int) -> None:
    path = bundle / "golden" / f"{name}.npy"
    array = np.load(path)
    array.flat[0] = value
    np.save(path, array)


def test_a_good_bundle_passes(pristine_bundle: Path) -> None:
    report = selftest(pristine_bundle)
    assert (report.gate, report.misses) == ("pass", ())
    assert report.preprocessing_equal
    assert (report.token_agreement, report.mismatches, report.unexplained_mismatches) == (1.0, 0, 0)
    assert report.decode_psnr_db == 100
    assert (report.bundle, report.runtime, report.precision, report.device) == (
        "color-onnxruntime-fp32",
        "onnxruntime",
        "fp32",
        "cpu",
    )
    assert report.seconds > 0


def test_an_open_tokenizer_stays_open(pristine_bundle: Path) -> None:
    with vqrae.load(pristine_bundle) as tokenizer:
        assert selftest(tokenizer).gate == "pass"
        assert selftest(tokenizer).gate == "pass"


def test_a_flipped_token_fails_and_is_unexplained(bundle: Path, rewrite_manifest: Rewrite) -> None:
    reference = np.load(bundle / "golden" / "indices.npy").flat[0]
    change(bundle, "indices", (reference + 1) % 16)
    rewrite_manifest(bundle)
    report = selftest(bundle)
    assert (report.gate, report.mismatches, report.unexplained_mismatches) == ("fail", 1, 1)
    assert "token agreement 91.6667%, gate >= 99.9000%" in report.misses
    assert "unexplained mismatches 1, gate <= 0" in report.misses


def test_a_flip_within_the_noise_is_explained(bundle: Path, rewrite_manifest: Rewrite) -> None:
    reference = np.load(bundle / "golden" / "indices.npy").flat[0]
    change(bundle, "indices", (reference + 1) % 16)
    change(bundle, "margins", 0)
    rewrite_manifest(bundle)
    report = selftest(bundle)
    assert (report.mismatches, report.unexplained_mismatches) == (1, 0)


def test_another_resize_fails(bundle: Path, rewrite_manifest: Rewrite) -> None:
    images = np.load(bundle / "golden" / "images.npy")
    change(bundle, "images", images.flat[0] ^ 1)
    rewrite_manifest(bundle)
    report = selftest(bundle)
    assert not report.preprocessing_equal
    assert report.gate == "fail"
    assert "preprocessing differs from the golden images" in report.misses


def test_another_decoder_fails(bundle: Path, rewrite_manifest: Rewrite) -> None:
    np.save(bundle / "golden" / "decoded.npy", np.zeros((2, 8, 12, 3), np.uint8))
    rewrite_manifest(bundle)
    report = selftest(bundle)
    assert report.gate == "fail"
    assert report.misses[0].startswith("decode PSNR ")


def test_a_corrupt_bundle_is_an_error_not_a_failed_gate(bundle: Path) -> None:
    (bundle / "encode.onnx").unlink()
    with pytest.raises(BundleError, match=r"encode\.onnx: got no such file"):
        selftest(bundle)
