"""What a file is, by its name alone; nothing is opened for it."""

from __future__ import annotations

from typing import Literal

IMAGE_SUFFIXES = (
    *(".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""Of images that the preprocessing rule reads."""
UNREAD_SUFFIXES = (
    *(".ai", ".arw", ".avif", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k"),
    *(".jp2", ".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pcx", ".psd", ".qoi", ".raf", ".rw2", ".svg", ".tga", ".xcf"),
)
"""Of images in formats that it does not read."""
PARQUET_SUFFIXES = (".parquet",)
TAR_SUFFIXES = (".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tbz2", ".tgz", ".txz")

Kind = Literal["images", "tar", "parquet"]
"""What images are read from: files of their own, or one of the two containers."""
Why = Literal["hidden", "unread format", "link", "special", "repeated", "no image column", "other"]
"""Why a file is left out."""
WORDS: dict[str, str] = {
    "hidden": "hidden",
    "unread format": "of a format that is not read",
    "link": "links to what is read elsewhere, or not there",
    "special": "no regular file",
    "repeated": "replaced by a later member of the same name",
    "no image column": "Parquet without one column of images",
    "other": "of other kinds",
}
"""For people."""
_SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "@eadir", "#recycle", "lost+found", "system volume information"}
"""What systems and their file managers leave beside data, lower-case."""


def kind_of(name: str) -> Kind | Why:
    """What a regular file is read as, or why it is not; `name` is its path below the data set, with `/`."""
    if hidden(name):
        return "hidden"
    name = name.lower()
    suffixes: dict[Kind | Why, tuple[str, ...]] = {
        "images": IMAGE_SUFFIXES,
        "tar": TAR_SUFFIXES,
        "parquet": PARQUET_SUFFIXES,
        "unread format": UNREAD_SUFFIXES,
    }
    return next((kind for kind, ends in suffixes.items() if name.endswith(ends)), "other")


def hidden(name: str) -> bool:
    """Whether a part of the path begins with a dot, or is a folder that systems leave."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in parts)


def key_of(name: str) -> str:
    r"""A name, whatever bytes it has, as text that no other name gives: `caf\xe9` for Latin-1's `café`.

    Bytes that are no UTF-8 become `\xNN`, and so does the backslash.
    """
    plain = name.replace("\\", "\\x5c")
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
