"""Makes docs/reference/decoding-vectors.json: small files, and the pixels that the rule's first two steps make of them.

The pixels follow from the rule's words, not from our decoder. `python tests/support/decoding_vectors.py` writes it.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

VECTORS = Path(__file__).parents[2] / "docs" / "reference" / "decoding-vectors.json"
Pixels = NDArray[np.uint8]
COLORS: Pixels = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[9, 9, 9], [99, 99, 99], [240, 240, 0]]], np.uint8)
GRAY: Pixels = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)
FINE = np.array([[0, 255, 256], [0x12FF, 0x7FFF, 0xFFFF]], np.uint16)
TURNED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, 1),
}
BLOCK = 16
"""Side of what stands for a pixel in a JPEG."""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def saved(pixels: NDArray[Any], kind: str, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[ExifTags.Base.Orientation] = orientation
    return made.tobytes()


def large(pixels: Pixels) -> Pixels:
    """As blocks that JPEG keeps."""
    return pixels.repeat(BLOCK, 0).repeat(BLOCK, 1)


def with_chunk(png: bytes, name: bytes, content: bytes, *, crc: int | None = None) -> bytes:
    """A PNG with another chunk before its pixels."""
    crc = zlib.crc32(name + content) if crc is None else crc
    at = png.index(b"IDAT") - 4
    return png[:at] + struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc) + png[at:]


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with another segment at its start."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]


def tiff(values: NDArray[Any], photometric: int, *, bits: int, content: bytes | None = None) -> bytes:
    """A little-endian TIFF of one strip, written by hand."""
    height, width = values.shape
    content = values.tobytes() if content is None else content
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(content),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padded = content + bytes(len(content) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + struct.pack("<H", len(tags)) + entries + bytes(4)


def twelve_bits(values: NDArray[np.uint16]) -> bytes:
    """Rows of two values in three bytes."""
    rows = (np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 4:].ravel() for row in values)
    return b"".join(np.packbits(row).tobytes() for row in rows)


def rgb(gray: NDArray[Any]) -> Pixels:
    return np.asarray(gray, np.uint8)[..., None].repeat(3, -1)


def vectors() -> Iterator[tuple[str, bytes, Pixels, int]]:
    """Name, file, pixels, and how far a decoder's may be from them."""
    for number, turn in TURNED.items():
        yield f"PNG, orientation {number}", saved(COLORS, "png", exif=exif(number)), turn(COLORS), 0
        webp = saved(COLORS, "webp", lossless=True, exif=exif(number))
        yield f"WebP, orientation {number}", webp, turn(COLORS), 0
        yield f"TIFF, orientation {number}", saved(COLORS, "tiff", exif=exif(number)), turn(COLORS), 0
        jpeg = saved(large(COLORS), "jpeg", quality=100, subsampling=0, exif=exif(number))
        yield f"JPEG, orientation {number}", jpeg, turn(large(COLORS)), 4
    yield from ignored()
    yield from values()


def ignored() -> Iterator[tuple[str, bytes, Pixels, int]]:
    """Metadata that does not count, or is damaged."""
    png = saved(COLORS, "png")
    jpeg, blocks = saved(large(COLORS), "jpeg", quality=100, subsampling=0), large(COLORS)
    itxt = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
    for name, file in {
        "PNG, orientation 0": saved(COLORS, "png", exif=exif(0)),
        "PNG, orientation 9": saved(COLORS, "png", exif=exif(9)),
        "PNG, orientation in XMP": with_chunk(png, b"iTXt", itxt),
        "PNG, EXIF of noise": with_chunk(png, b"eXIf", b"\xff" * 40),
        "PNG, EXIF whose checksum is wrong": with_chunk(png, b"eXIf", exif(6)[6:], crc=0),
        "PNG, text whose checksum is wrong": with_chunk(png, b"tEXt", b"Comment\0hello", crc=0),
        "PNG, compressed text that is damaged": with_chunk(png, b"zTXt", b"Comment\0\0damaged"),
        "PNG, color profile that is damaged": with_chunk(png, b"iCCP", b"a\0\0damaged"),
        "PNG, resolution of three bytes": with_chunk(png, b"pHYs", b"abc"),
        "PNG, gamma 1": with_chunk(png, b"gAMA", struct.pack(">I", 100_000)),
        "PNG, number of frames that is damaged": with_chunk(png, b"acTL", b"\0"),
        "WebP, orientation in XMP": saved(COLORS, "webp", lossless=True, xmp=XMP),
        "WebP, EXIF of noise": saved(COLORS, "webp", lossless=True, exif=b"Exif\0\0" + b"\xff" * 40),
        "TIFF, orientation in XMP": saved(COLORS, "tiff", tiffinfo=tags({700: XMP})),
        "TIFF, EXIF that lies behind the end": saved(COLORS, "tiff", tiffinfo=tags({34665: 2**30})),
    }.items():
        yield name, file, COLORS, 0
    for name, file in {
        "JPEG, orientation in XMP": with_segment(jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        "JPEG, EXIF of noise": with_segment(jpeg, 0xE1, b"Exif\0\0" + b"\xff" * 40),
        "JPEG, color profile that is damaged": with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\1\1damaged"),
        "JPEG, list of pictures that is damaged": with_segment(
            jpeg, 0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 9
        ),
        "JPEG, Photoshop's block that is damaged": with_segment(jpeg, 0xED, b"Photoshop 3.0\08BIM\x03\xed\xff"),
    }.items():
        yield name, file, blocks, 4


def tags(values: dict[int, Any]) -> TiffImagePlugin.ImageFileDirectory_v2:
    made = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in values.items():
        made[tag] = value
    return made


def values() -> Iterator[tuple[str, bytes, Pixels, int]]:
    """Bits, inversions, palettes, transparency."""
    yield "PNG, 8-bit gray", saved(GRAY, "png"), rgb(GRAY), 0
    yield "PNG, 16-bit gray", saved(FINE, "png"), rgb(FINE // 256), 0
    yield "PGM, 16-bit gray", b"P5 3 2 65535\n" + FINE.astype(">u2").tobytes(), rgb(FINE // 256), 0
    yield "TIFF, 16-bit gray", tiff(FINE, 1, bits=16), rgb(FINE // 256), 0
    yield "TIFF, 16-bit gray, 0 is white", tiff(FINE, 0, bits=16), rgb((0xFFFF - FINE) // 256), 0
    yield "TIFF, 8-bit gray", tiff(GRAY, 1, bits=8), rgb(GRAY), 0
    yield "TIFF, 8-bit gray, 0 is white", tiff(GRAY, 0, bits=8), rgb(255 - GRAY), 0
    twelve = FINE[:, :2] // 16
    yield "TIFF, 12-bit gray", tiff(twelve, 1, bits=12, content=twelve_bits(twelve)), rgb(twelve // 16), 0
    clear = np.dstack([COLORS, np.full((2, 3), 51, np.uint8)])
    over = (COLORS * np.float64(51) + 255 * (255 - 51)) / 255
    yield "PNG, alpha 0.2 over white", saved(clear, "png"), np.floor(over + 0.5).astype(np.uint8), 0
    ink = np.array([[[0, 255, 255, 0], [255, 0, 255, 0], [0, 0, 0, 255]]] * 2, np.uint8)
    inked = np.rint((255.0 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).astype(np.uint8)
    yield "TIFF, CMYK", saved(ink, "tiff", "CMYK"), inked, 0
    yield "JPEG, CMYK", saved(large(ink), "jpeg", "CMYK", quality=100, subsampling=0), large(inked), 4
    indexed = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    indexed.putpalette(COLORS[0].ravel().tolist())
    file = io.BytesIO()
    indexed.save(file, "png", transparency=1)
    yield "PNG, palette, one color transparent", file.getvalue(), np.where([[[0], [1], [0]]], 255, COLORS[:1]), 0


def main() -> None:
    made = []
    for name, file, pixels, tolerance in vectors():
        block = BLOCK if tolerance else 1
        told = pixels[block // 2 :: block, block // 2 :: block].tolist()
        encoded = base64.b64encode(file).decode()
        made.append({"name": name, "block": block, "tolerance": tolerance, "pixels": told, "file": encoded})
    VECTORS.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in made) + "\n]\n")
    print(f"{VECTORS}: {len(made)} vectors")


if __name__ == "__main__":
    main()
