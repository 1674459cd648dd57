from __future__ import annotations

import base64
import io
import json
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from vqrae.runtimes.errors import ImageError
from vqrae.runtimes.preprocess import MAX_PIXELS, open_image, prepare, read_image, to_rgb

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "decoding-vectors.json").read_text())
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def photograph(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    noise = np.random.default_rng(7).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def png(width: int, height: int, depth: int = 8, color: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_an_image_of_the_exact_size_is_unchanged() -> None:
    image = photograph(24, 36)
    np.testing.assert_array_equal(prepare(image, 24, 36), image)


def test_paths_pillow_images_and_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    image = photograph(40, 90)
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = prepare(image, 24, 36)
    assert expected.shape == (24, 36, 3)
    assert expected.dtype == np.uint8
    np.testing.assert_array_equal(prepare(tmp_path / "a.png", 24, 36), expected)
    np.testing.assert_array_equal(prepare(str(tmp_path / "a.png"), 24, 36), expected)
    np.testing.assert_array_equal(prepare(Image.fromarray(image), 24, 36), expected)


@pytest.mark.parametrize("view", [np.flipud, np.fliplr, lambda image: image[::2, ::2]])
def test_an_array_may_have_any_strides(view: Callable[[Any], Any]) -> None:
    image = view(photograph(40, 90))
    np.testing.assert_array_equal(prepare(image, 8, 8), prepare(image.copy(), 8, 8))


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (65, 64)])
def test_the_horizontal_direction_comes_first(size: tuple[int, int]) -> None:
    """In one call Pillow may take the other one first, which rounds, and cuts what overshoots, elsewhere."""
    image = np.random.default_rng(1).integers(0, 2, (*size, 3), dtype=np.uint8) * 255
    source = Image.fromarray(image)
    left, top = (max(0, side - min(size)) / 2 for side in source.size)
    bicubic = Image.Resampling.BICUBIC
    box = (left, 0, source.width - left, source.height)
    squeezed = source.resize((24, source.height), bicubic, box=box)
    expected = squeezed.resize((24, 24), bicubic, box=(0, top, 24, source.height - top))
    np.testing.assert_array_equal(prepare(image, 24, 24), expected)


def test_the_center_is_kept_and_the_sides_are_cut() -> None:
    image = np.zeros((10, 50, 3), np.uint8)
    image[:, 20:30] = 255
    assert prepare(image, 10, 10).min() == 255
    assert prepare(image.transpose(1, 0, 2), 10, 10).min() == 255


@given(height=st.integers(1, 60), width=st.integers(1, 60), target=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_flat_image_stays_flat_at_any_size(height: int, width: int, target: tuple[int, int]) -> None:
    prepared = prepare(np.full((height, width, 3), (10, 200, 77), np.uint8), *target)
    assert prepared.shape == (*target, 3)
    assert (prepared == (10, 200, 77)).all()


def test_the_rule_is_bicubic_with_antialias() -> None:
    """By the formulas of the module's docstring, in floating point; Pillow rounds to 8 bits between its two passes."""

    def weights(source: int, start: float, length: float, target: int) -> Any:
        scale = length / target
        stretch = max(scale, 1.0)
        centers = start + (np.arange(target) + 0.5) * scale
        x = np.abs((np.arange(source) + 0.5 - centers[:, None]) / stretch)
        cubic = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        return cubic / cubic.sum(1, keepdims=True)

    image = photograph(40, 90).astype(np.float64)
    box_width = 40 * 36 / 24
    rows, columns = weights(40, 0, 40, 24), weights(90, (90 - box_width) / 2, box_width, 36)
    passed = np.clip(np.round(np.einsum("xw,hwc->hxc", columns, image)), 0, 255)
    expected = np.clip(np.round(np.einsum("yh,hxc->yxc", rows, passed)), 0, 255)
    difference = np.abs(prepare(image.astype(np.uint8), 24, 36) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (100_000, 1), (3, 2)])
def test_extreme_shapes_are_prepared(size: tuple[int, int]) -> None:
    assert prepare(Image.new("RGB", size, (1, 2, 3)), 16, 24).tolist() == [[[1, 2, 3]] * 24] * 16


def test_a_very_large_photograph_is_prepared_without_a_warning(tmp_path: Path) -> None:
    """12000×9000 pixels: Pillow's own limit would warn, and warnings are errors here."""
    Image.new("L", (12000, 9000), 9).save(tmp_path / "large.png", compress_level=1)
    assert (prepare(tmp_path / "large.png", 8, 8) == 9).all()
    assert warnings.filters[0][0] == "error"


@pytest.mark.parametrize(("side", "got"), [(11586, "11586x11586 pixels"), (20000, "too many pixels")])
def test_a_larger_one_is_refused_by_its_header(tmp_path: Path, side: int, got: str) -> None:
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(ImageError, match=rf"bomb\.png: got {got}; expected 1 to {MAX_PIXELS} pixels"):
        open_image(tmp_path / "bomb.png")


def test_a_text_file_with_an_images_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello, world")
    with pytest.raises(ImageError, match=r"a\.jpg: got not an image; expected one of PNG, JPEG") as caught:
        prepare(tmp_path / "a.jpg", 8, 8)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp", "ppm"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"a\.{suffix}: got (damaged data \(.+\); expected a whole|not an) image"):
        open_image(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_an_image_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.png"
    whole = png(4, 4, data=(b"\0" + b"\1" * 12) * 4)
    path.write_bytes(whole[:30] + noise + whole[30 + len(noise) :])
    try:
        open_image(path)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png: got no such file; expected an image file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="got a folder; expected an image file"):
        open_image(tmp_path)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ImageError, match="got not an image"):
        open_image(tmp_path / "a.eps")


def test_an_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = photograph(16, 32)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: show it turned by 90° clockwise
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.rot90(image, -1))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_metadata_damages_no_image_and_every_format_means_the_same(vector: dict[str, Any]) -> None:
    """The golden vectors of decoding: what the rule's first two steps make of small files."""
    decoded = np.asarray(read_image("vector", io.BytesIO(base64.b64decode(vector["file"]))), np.int64)
    block = vector["block"]
    difference = decoded[block // 2 :: block, block // 2 :: block] - vector["pixels"]
    assert np.abs(difference).max() <= vector["tolerance"]


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert prepare(tmp_path / "a.gif", 4, 4).tolist() == [[[255, 0, 0]] * 4] * 4


def test_16_bit_grayscale_is_divided_by_256(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 0x12FF], [0x1300, 0x7FFF, 0xFF00, 0xFFFF]], np.uint16)
    for name in ("a.png", "a.tiff", "a.ppm"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(open_image(tmp_path / name))[..., 1].tolist() == (values // 256).tolist(), name
    assert np.asarray(to_rgb(Image.fromarray(values.astype(np.int32))))[..., 0].tolist() == (values // 256).tolist()


def test_16_bit_color_is_divided_by_256(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1, 1, depth=16, data=b"\0" + struct.pack(">3H", 0x12FF, 0x3480, 0xFFFF)))
    assert np.asarray(open_image(tmp_path / "a.png")).tolist() == [[[0x12, 0x34, 0xFF]]]


def test_wider_values_are_refused_not_guessed() -> None:
    with pytest.raises(ImageError, match="image: got 32-bit values from 0 to 70000; expected 8 or 16 bits a channel"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(ImageError, match="image: got floating-point pixels; expected 8 or 16 bits a channel"):
        to_rgb(Image.new("F", (2, 2)))


def test_transparency_lies_over_white_by_the_documented_formula() -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.fromarray(np.stack([value, value, value, alpha], -1).astype(np.uint8), "RGBA")
    expected = np.floor((value * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 2], expected)


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "RGBa"])
def test_every_transparent_mode_becomes_white(mode: str) -> None:
    assert np.asarray(to_rgb(Image.new(mode, (2, 2)))).min() == 255


def test_a_palette_gives_its_colors_and_its_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=1)
    assert np.asarray(open_image(tmp_path / "opaque.png")).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert np.asarray(open_image(tmp_path / "transparent.png")).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_transparent_16_bit_gray_becomes_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0x1234, 0x1235]], np.uint16))
    image.info["transparency"] = 0x1234
    assert np.asarray(to_rgb(image))[..., 0].tolist() == [[255, 0x12]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    red, green, blue = np.asarray(open_image(tmp_path / "red.jpg"))[8, 8].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_grayscale_and_bilevel_become_three_equal_channels() -> None:
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(RAMP))), RAMP[..., None].repeat(3, -1))
    assert np.asarray(to_rgb(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"got float32 \(4, 4, 3\); expected uint8 \(H, W, 3\)"),
        (np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\); expected uint8 \(H, W, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (b"bytes", "got bytes; expected a path, a Pillow image or a uint8 array"),
        (None, "got NoneType"),
        (Image.new("RGB", (0, 3)), "got 0x3 pixels"),
    ],
)
def test_other_objects_are_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=f"image: {message}"):
        prepare(image, 8, 8)


def test_a_lazily_opened_truncated_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(photograph(64, 64)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(ImageError, match="image: got damaged data"):
        to_rgb(image)


def test_images_are_opened_from_many_threads(tmp_path: Path) -> None:
    Image.fromarray(photograph(32, 32)).save(tmp_path / "a.png")
    expected, results = prepare(tmp_path / "a.png", 8, 8), list[Any]()
    threads = [threading.Thread(target=lambda: results.append(prepare(tmp_path / "a.png", 8, 8))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, expected) for result in results)
