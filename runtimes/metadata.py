"""What of an encoded image is no pixels, left out before it is decoded: a viewer ignores damage there, and so do we.

Of PNG and JPEG, whose decoders read metadata on their way to the pixels. EXIF stays: it says which way is up.
"""

from __future__ import annotations

import zlib

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_KEPT = (b"tRNS", b"eXIf")
"""Chunks that a decoder may ignore, and that the rule does not; those whose names begin with a capital it may not."""
_SOS, _APP0, _APP1, _APP14, _APP15, _COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_ALONE = (0x01, *range(0xD0, 0xDA))
"""Markers of JPEG that no length follows."""


def pixels_only(content: bytes) -> bytes:
    """An encoded image without its metadata; other formats, and what is damaged otherwise, as they are."""
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
