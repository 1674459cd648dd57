"""What `--data` names on this machine."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

from vqrae.runtimes.errors import DataError
from vqrae.runtimes.image_files import IMAGE_SUFFIXES, image_files

PARQUET = (".parquet",)
TARS = (".tar", ".tar.gz", ".tgz")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class DataFiles(NamedTuple):
    """Files of one kind, in the order of their paths."""

    suffixes: tuple[str, ...]
    """`IMAGE_SUFFIXES`, `PARQUET` or `TARS`."""
    paths: list[Path]


def data_files(data: str) -> DataFiles | None:
    """The files that a name stands for, or None where it names nothing on this machine and could be a hub's dataset.

    Args:
        data: a folder (of images; or, where it holds none, of Parquet files or tars), a Parquet file or tar, or a
            pattern of them with `*`, `?`, `[…]` or one `{first..last}`, counted with leading zeros as the first has
            them.

    Raises:
        DataError: nothing is there, or nothing of these kinds, or several of them.
    """
    path = Path(data)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return _of_one_kind(data, [path])
    if _RANGE.search(data):
        return _of_one_kind(data, _counted(data))
    if glob.has_magic(data):
        return _of_one_kind(data, sorted(Path(name) for name in glob.glob(data, recursive=True)))  # noqa: PTH207
    return None


def _folder(folder: Path) -> DataFiles:
    try:
        return DataFiles(IMAGE_SUFFIXES, image_files(folder))
    except DataError:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for suffixes in (PARQUET, TARS):
            found = [path for path in files if path.name.lower().endswith(suffixes)]
            if found:
                return DataFiles(suffixes, found)
        raise


def _counted(data: str) -> list[Path]:
    """The files of a pattern with one range, which must all be there."""
    before, first, last, after = _RANGE.split(data, maxsplit=1)
    paths = [Path(f"{before}{number:0{len(first)}}{after}") for number in range(int(first), int(last) + 1)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        got = f"{len(missing)} of {len(paths)} files missing, the first: {missing[0]}"
        raise DataError(data, got=got, expected="all of them")
    return paths


def _of_one_kind(data: str, paths: list[Path]) -> DataFiles:
    for suffixes in (PARQUET, TARS):
        if paths and all(path.name.lower().endswith(suffixes) for path in paths):
            return DataFiles(suffixes, paths)
    expected = f"a folder of images, or only {', '.join(PARQUET)} or only {', '.join(TARS)} files"
    got = ("a file" if len(paths) == 1 else f"{len(paths)} files of other kinds") if paths else "no such file"
    raise DataError(data, got=got, expected=expected)
