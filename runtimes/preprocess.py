"""The preprocessing rule `bicubic-center-crop/1`: from any image to uint8 (H, W, 3), the same bytes for every client.

A client in another language repeats these steps, and proves it with the bundle's golden samples:

1. Decode the first frame; of an animated PNG, its default image. Turn it upright as the EXIF orientation says that JPEG
   has in APP1, PNG in `eXIf`, WebP in `EXIF`, TIFF as its own tag 274; a value other than 1 to 8, or EXIF that is
   damaged, is none. All other metadata is ignored, damaged or not: XMP, an orientation there too, text, color profiles,
   gamma. Pixels that are damaged are an error.
2. Bring it to 8-bit RGB. 16 bits a channel: the value divided by 256, rounded down; 12 bits: by 16. Where 0 is white
   (TIFF), the value is taken from its maximum first. Palettes: their colors. Transparency: over white, each channel
   (c·a + 255·(255 − a)) / 255, rounded to nearest. CMYK: each channel (255 − C)·(255 − K) / 255, rounded to nearest, as
   Pillow does it; JPEG's is stored inverted, as Adobe does it. Grayscale: three equal channels.
3. Take the largest centered box of the target's aspect ratio, in source pixels, without rounding it: w × w·H/W or
   h·W/H × h, with its corner at half of what is left over.
4. Resample that box to W × H as Pillow's `resize(..., BICUBIC, box=...)` does it: by the cubic with a = −0.5, stretched
   by the scale when it shrinks (antialias); first horizontally, then vertically, rounded to 8 bits between the two. The
   box's edges and their distance are rounded to float32, and the weights, in units of 2⁻²², to whole numbers.

An image of exactly W × H comes out unchanged.
"""

from __future__ import annotations

import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2_GROUPS

from vqrae.runtimes.errors import ImageError, VqraeError, storage_error

RULE = "bicubic-center-crop/1"
MAX_PIXELS = 2**27
"""A larger image is refused by its header, before it is decoded; 12000 x 9000 fits."""
MAX_BYTES = 2**29
"""Of an encoded image."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
"""What is read. Others are refused: some (EPS) make Pillow run a program."""

ImageLike = str | Path | Image.Image | NDArray[np.uint8]
"""A path, a Pillow image (its current frame), or an array uint8 (H, W, 3) RGB."""

_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF, and a value."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_KEPT = (b"tRNS", b"eXIf")
"""Chunks that a decoder may ignore, and that the rule does not; those whose names begin with a capital it may not."""
_SOS, _APP0, _APP1, _APP14, _APP15, _COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_ALONE = (0x01, *range(0xD0, 0xDA))
"""Markers of JPEG that no length follows."""
_WARNING_FILTERS = threading.Lock()  # the interpreter's filters belong to all threads


def prepare(image: ImageLike, height: int, width: int) -> NDArray[np.uint8]:
    """Apply the rule.

    Args:
        image: a path, a Pillow image, or an array uint8 (H, W, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ImageError: it cannot be read, is too large, or is of no supported kind.
        StorageError: the operating system refuses to open the file.
    """
    source = _source(image)
    left, top, right, bottom = _centered_box(source.width, source.height, width / height)
    # Two calls, because in one call Pillow 13 takes the direction first that is less work, and other bytes come out.
    across = source.resize((width, source.height), Image.Resampling.BICUBIC, box=(left, 0, right, source.height))
    return np.asarray(across.resize((width, height), Image.Resampling.BICUBIC, box=(0, top, width, bottom)))


def open_image(path: str | Path) -> Image.Image:
    """The first frame of an image file as upright 8-bit RGB: steps 1 and 2 of the rule.

    Raises:
        ImageError: no such file, not an image, truncated, too large, or of no supported kind.
        StorageError: the operating system refuses to open the file.
    """
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise ImageError(str(path), got=got, expected="an image file")
    return read_image(str(path), path)


def read_image(name: str, file: Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_image`, from an open file too; `name` is what errors call it, `max_pixels` may lower the limit."""
    with _reading(name), _opened(file) as image:
        return _rgb(name, image, max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image, at the frame it stands at, as upright 8-bit RGB: steps 1 and 2 of the rule.

    Raises:
        ImageError: empty, truncated, too large, or of no supported kind.
    """
    with _reading("image"):
        return _rgb("image", image)


def _source(image: ImageLike) -> Image.Image:
    if isinstance(image, str | Path):
        return open_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            "image", got=type(image).__name__, expected="a path, a Pillow image or a uint8 array (H, W, 3)"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError("image", got=f"{image.dtype} {image.shape}", expected="uint8 (H, W, 3)")
    return Image.fromarray(np.ascontiguousarray(image))


def _rgb(subject: str, image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    width, height = image.size
    if not 0 < width * height <= max_pixels:
        raise ImageError(subject, got=f"{width}x{height} pixels", expected=f"1 to {max_pixels} pixels")
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = image if turn is None else _turned(image, turn)
    if image.mode.startswith("I"):
        image = _eight_bits(subject, image)
    if image.mode == "F":
        raise ImageError(subject, got="floating-point pixels", expected="8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _orientation(image: Image.Image) -> object:
    """EXIF's orientation; TIFF was turned upright when it was loaded. XMP has none that counts."""
    exif = Image.Exif()
    with _quiet():
        try:
            exif.load(image.info.get("exif", b""))
            return exif.get(ExifTags.Base.Orientation)
        except Exception:  # whatever a damaged EXIF makes Pillow raise: there is no list
            return None


def _turned(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    turned = image.transpose(turn)
    turned.info = image.info  # its transparency
    return turned


def _eight_bits(subject: str, image: Image.Image) -> Image.Image:
    """16-bit grayscale, which Pillow holds in the modes I;16 and I, to 8 bits."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(subject, got=f"32-bit values from {low} to {high}", expected="8 or 16 bits a channel")
    tags = getattr(image, "tag_v2", {})  # of TIFF, whose 16-bit values Pillow gives as they are stored
    most = 2 ** tags.get(_BITS, (16,))[0] - 1
    values = most - values if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values
    gray = (values // ((most + 1) // 256)).astype(np.uint8)
    if "transparency" in image.info:  # one gray value that stands for "nothing here"
        gray[values == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def _centered_box(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    box_width, box_height = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


@contextmanager
def _opened(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """Pillow reads the header only."""
    with _quiet():
        image = Image.open(BytesIO(pixels_only(_content(file))), formats=FORMATS)
        _forget_metadata(image)
    with image:
        yield image


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: of metadata, which is ignored, and of a limit on pixels that is lower than ours."""
    with _WARNING_FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _content(file: Path | IO[bytes]) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _content(opened)
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ImageError("image", got=f"more than {MAX_BYTES} bytes", expected="fewer")
    return content


def _forget_metadata(image: Image.Image) -> None:
    """So that decoding does not read it."""
    image.info.pop("xmp", None)
    if isinstance(image, TiffImageFile):
        exif = image.getexif()
        for tag in TAGS_V2_GROUPS:
            exif.pop(tag, None)  # where further tags lie


@contextmanager
def _reading(subject: str) -> Iterator[None]:
    """Turn whatever a decoder raises over foreign bytes (there is no list) into one line that names the image."""
    try:
        yield
    except (VqraeError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(subject, got="not an image", expected=f"one of {', '.join(FORMATS)}") from error
    except PermissionError as error:
        raise storage_error(subject, error) from error
    except Image.DecompressionBombError as error:
        raise ImageError(subject, got="too many pixels", expected=f"1 to {MAX_PIXELS} pixels") from error
    except Exception as error:
        got = f"damaged data ({str(error) or type(error).__name__})"
        raise ImageError(subject, got=got, expected="a whole image") from error


def pixels_only(content: bytes) -> bytes:
    """An encoded PNG or JPEG without what is no pixels; other formats, and what is damaged otherwise, as they are.

    Their decoders read metadata on their way to the pixels; a viewer ignores damage there, and so do we. EXIF stays: it
    says which way is up.
    """
    if content.startswith(_PNG):
        return _png(content)
    return _jpeg(content) if content.startswith(_JPEG) else content


def _png(content: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        whole = name != b"eXIf" or zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(
            content[end - 4 : end], "big"
        )
        if name[:1].isupper() or (name in _PNG_KEPT and whole):
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])


def _jpeg(content: bytes) -> bytes:
    """Segments up to the first scan; a decoder takes the colors' meaning from APP0 (JFIF) and APP14 (Adobe)."""
    kept, at = [_JPEG], len(_JPEG)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # what may fill the space before a marker
            at += 1
            continue
        if marker == _SOS:
            break
        end = at + 2 if marker in _ALONE else at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at:end]
        metadata = _APP0 <= marker <= _APP15 or marker == _COMMENT
        if not metadata or _matters(marker, segment):
            kept.append(segment)
        at = max(end, at + 2)
    return b"".join([*kept, content[at:]])


def _matters(marker: int, segment: bytes) -> bool:
    if marker == _APP0:
        return segment[4:9] == b"JFIF\0" and len(segment) >= 18
    return marker == _APP14 or (marker == _APP1 and segment[4:10] == b"Exif\0\0")
