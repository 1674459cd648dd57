"""Which files of a folder are images."""

from __future__ import annotations

from pathlib import Path

from vqrae.runtimes.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def image_files(folder: Path | str) -> list[Path]:
    """The image files below a folder, sorted by path.

    Raises:
        DataError: not a folder, or no image in it.
    """
    folder = Path(folder)
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir())
    if not found:
        got = "no image files" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise DataError(str(folder), got=got, expected=f"a folder with {', '.join(IMAGE_SUFFIXES)} files")
    return found
