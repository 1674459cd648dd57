"""Parquet files of encoded images: bytes, or structs with a field `bytes`, as `datasets` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqrae.runtimes.errors import RuntimeUnavailable, damage_of

if TYPE_CHECKING:
    import pyarrow as pa

PREFERRED = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Names that decide where several columns hold images, in this order and in any case."""
_DAMAGE = "damaged Parquet file ({})"
_ROWS_AT_ONCE = 32
_DAMAGED = (OSError, ValueError, LookupError, ArithmeticError)
"""What pyarrow raises over damaged bytes beside its own errors."""


class NoImageColumn(Exception):  # noqa: N818 - which columns there are
    """Says which columns a file has instead."""


def image_column(schema: pa.Schema) -> str:
    """The column of encoded images: of bytes, or of a struct with a field `bytes`.

    Raises:
        NoImageColumn: there is none, or there are several and none has one of the `PREFERRED` names.
    """
    found = [field.name for field in schema if _holds_images(field.type)]
    named = [name for wanted in PREFERRED for name in found if name.lower() == wanted]
    if named or len(found) == 1:
        return (named or found)[0]
    if found:
        raise NoImageColumn(f"several columns that may hold images, {', '.join(found)}, none of them {PREFERRED[0]}")
    raise NoImageColumn(f"the columns {', '.join(schema.names) or '(none)'}, none of bytes")


def count_rows(path: Path) -> int | str:
    """How many rows a file has, or why it is damaged.

    Raises:
        NoImageColumn: see `image_column`.
        RuntimeUnavailable: pyarrow is not installed.
        StorageError: the operating system refused to read.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        remedy = "Install it with `pip install 'vqrae[parquet]'`"
        raise RuntimeUnavailable(f"{path} needs pyarrow", got=str(error), remedy=remedy) from error
    try:
        with parquet.ParquetFile(path) as file:
            image_column(file.schema_arrow)
            return int(file.metadata.num_rows)
    except (ArrowException, *_DAMAGED) as error:
        return _DAMAGE.format(damage_of(path, error))


def read_rows(path: Path, first: int, count: int) -> Iterator[bytes | str]:
    """The encoded images of rows `first` to `first + count`, or why there is none; damage ends the file's rows.

    Raises:
        StorageError: the operating system refused to read.
    """
    from pyarrow import ArrowException, parquet

    given, problem = 0, "the row is missing"
    try:
        with parquet.ParquetFile(path) as file:
            column = image_column(file.schema_arrow)
            for value in _values(file, column, first, count):
                yield _encoded(value)
                given += 1
    except (ArrowException, *_DAMAGED, NoImageColumn) as error:
        problem = _DAMAGE.format(damage_of(path, error))
    yield from (problem for _ in range(count - given))


def _encoded(value: Any) -> bytes | str:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    path = value.get("path") if isinstance(value, dict) else None
    return f"no bytes, only the path {path}" if path else "no bytes"


def _holds_images(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _values(file: Any, column: str, first: int, count: int) -> Iterator[Any]:
    """Rows `first` to `first + count`, a few in memory at a time; only the row groups that hold them are read."""
    start, groups, skipped = 0, [], 0
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if start + rows <= first:
            skipped = start + rows
        elif start < first + count:
            groups.append(number)
        start += rows
    row = skipped
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[column]) if groups else ():
        for value in batch.column(0):
            if first <= row < first + count:
                yield value.as_py()
            row += 1
