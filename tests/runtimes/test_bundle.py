from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqrae.runtimes.bundle import Bundle, sha256_file
from vqrae.runtimes.errors import BundleError, StorageError

Edit = Callable[[Callable[[Any], None]], None]


def test_an_untouched_bundle_opens(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest.name == "color-onnxruntime-fp32"
    assert opened.file("encode.onnx") == bundle / "encode.onnx"
    assert opened.size_bytes == sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def test_a_linked_bundle_opens(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle)
    assert Bundle.open(tmp_path / "latest").path == tmp_path / "latest"


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_flipped_byte_is_found(bundle: Path) -> None:
    content = bytearray((bundle / "encode.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "encode.onnx").write_bytes(content)
    message = r"encode\.onnx: got SHA-256 \w{12}…; expected \w{12}…; export it again$"
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_a_truncated_file_is_found_by_its_size(bundle: Path) -> None:
    size = (bundle / "decode.onnx").stat().st_size
    (bundle / "decode.onnx").write_bytes((bundle / "decode.onnx").read_bytes()[:100])
    with pytest.raises(BundleError, match=rf"decode\.onnx: got 100 bytes; expected {size} bytes; export it again$"):
        Bundle.open(bundle)


def test_a_missing_file_is_found(bundle: Path) -> None:
    (bundle / "decode.onnx").unlink()
    with pytest.raises(BundleError, match=r"decode\.onnx: got no such file; expected a file; export it again$"):
        Bundle.open(bundle)


def test_a_missing_subfolder_is_found(bundle: Path) -> None:
    shutil.rmtree(bundle / "golden")
    with pytest.raises(BundleError, match=r"golden/decoded\.npy: got no such file"):
        Bundle.open(bundle)


def test_a_folder_in_place_of_a_file_is_found(bundle: Path) -> None:
    (bundle / "decode.onnx").unlink()
    (bundle / "decode.onnx").mkdir()
    with pytest.raises(BundleError, match=r"decode\.onnx: got something that is not a file"):
        Bundle.open(bundle)


@pytest.mark.parametrize("linked", ["encode.onnx", "golden", "manifest.json"])
def test_a_link_is_followed_and_what_it_leads_to_is_compared(bundle: Path, tmp_path: Path, linked: str) -> None:
    (bundle / linked).rename(tmp_path / "elsewhere")
    (bundle / linked).symlink_to(tmp_path / "elsewhere")
    assert Bundle.open(bundle).golden().indices.shape == (2, 2, 3)
    (bundle / linked).unlink()
    (bundle / linked).symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=rf"color/{linked}.*: got no such file"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["encode.onnx", "manifest.json"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError, match=rf"{name}: got something that is not a file; expected a file"):
        Bundle.open(bundle)


def test_an_extra_file_is_refused(bundle: Path) -> None:
    (bundle / "golden" / "plugin.so").write_bytes(b"")
    message = r"golden/plugin\.so: got a file that the manifest does not list; expected only the .* files"
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_an_extra_link_is_refused(bundle: Path) -> None:
    (bundle / "more").symlink_to("golden")
    with pytest.raises(BundleError, match="more: got a file that the manifest does not list"):
        Bundle.open(bundle)


def test_a_path_that_leaves_the_folder_is_refused(bundle: Path, edit_manifest: Edit) -> None:
    (bundle.parent / "secret").write_text("x")
    edit_manifest(lambda values: values["files"][0].update(path="../secret"))
    with pytest.raises(BundleError, match=r"field files\.0\.path: got '\.\./secret'; expected a relative path inside"):
        Bundle.open(bundle)


def test_a_newer_major_version_is_refused(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(lambda values: values.update(format_version="2.0"))
    with pytest.raises(BundleError, match=r"got format version 2\.0; expected version 1\.x; upgrade vqrae"):
        Bundle.open(bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: got no such folder; expected a bundle's folder"):
        Bundle.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="file: got a file; expected a bundle's folder"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match=r"manifest\.json: got no such file"):
        Bundle.open(tmp_path)


def test_a_file_of_another_owner_is_a_storage_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything, so the refusal itself is raised by hand."""

    really = os.open

    def refuse(path: Path, *arguments: Any) -> int:
        if path == bundle / "encode.onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *arguments)

    monkeypatch.setattr("vqrae.runtimes.bundle.os.open", refuse)
    with pytest.raises(StorageError, match=r"encode\.onnx: got Permission denied; choose a place"):
        Bundle.open(bundle)


def test_only_listed_files_are_handed_out(bundle: Path) -> None:
    with pytest.raises(BundleError, match="got a file that the manifest does not list"):
        Bundle.open(bundle).file("other.onnx")


def test_golden_samples_come_back(bundle: Path) -> None:
    golden = Bundle.open(bundle).golden()
    assert [path.name for path in golden.sources] == ["source-00.png", "source-01.jpg"]
    assert golden.images.shape == golden.decoded.shape == (2, 8, 12, 3)
    assert golden.indices.shape == golden.margins.shape == (2, 2, 3)


def test_a_bundle_without_golden_samples_says_so(bundle: Path, rewrite_manifest: Callable[..., None]) -> None:
    shutil.rmtree(bundle / "golden")
    rewrite_manifest(bundle)
    with pytest.raises(BundleError, match=r"golden: got no golden samples; expected source-00\.png …; export it again"):
        Bundle.open(bundle).golden()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("indices", np.zeros((2, 2, 3), np.int64), r"golden/indices\.npy: got int64 \(2, 2, 3\); expected int32"),
        (
            "margins",
            np.zeros((2, 3, 2), np.float32),
            r"golden/margins\.npy: got .* expected float32 with shape \(2, 2, 3\)",
        ),
        ("images", np.zeros((3, 8, 12, 3), np.uint8), r"golden/images\.npy: got .* for 2 photographs"),
        ("images", np.zeros((2, 8, 12, 4), np.uint8), r"golden/images\.npy: got uint8 \(2, 8, 12, 4\)"),
        ("decoded", np.zeros((2, 8, 8, 3), np.uint8), r"golden/decoded\.npy: got uint8 \(2, 8, 8, 3\)"),
        ("margins", np.array([object()]), r"golden/margins\.npy: got .*; expected an array; export it again"),
    ],
)
def test_golden_arrays_must_fit_together(
    bundle: Path, rewrite_manifest: Callable[..., None], name: str, array: Any, message: str
) -> None:
    np.save(bundle / "golden" / f"{name}.npy", array, allow_pickle=True)
    rewrite_manifest(bundle)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle).golden()


def test_golden_images_must_have_the_manifests_size(bundle: Path, rewrite_manifest: Callable[..., None]) -> None:
    for name in ("images", "decoded"):
        np.save(bundle / "golden" / f"{name}.npy", np.zeros((2, 8, 8, 3), np.uint8))
    rewrite_manifest(bundle)
    with pytest.raises(BundleError, match=r"golden/images\.npy: got size \(8, 8\); expected size \(8, 12\)"):
        Bundle.open(bundle).golden()


def test_an_array_that_promises_more_than_it_holds_is_refused(
    bundle: Path, rewrite_manifest: Callable[..., None]
) -> None:
    path = bundle / "golden" / "images.npy"
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20, 8, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)
    rewrite_manifest(bundle)
    with pytest.raises(BundleError, match=r"golden/images\.npy: got .*; expected an array"):
        Bundle.open(bundle).golden()
