"""Calls into `datasets`: quiet, and with one-line errors."""

from __future__ import annotations

import logging
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError

from datasets import Features
from datasets.exceptions import DatasetsError
from datasets.utils import logging as datasets_logging
from datasets.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from vqrae.images.parquet import PREFERRED, NoImageColumn, image_column
from vqrae.runtimes.errors import DataError, storage_error

FOREIGN = (DatasetsError, OSError, ValueError, IndexError, EOFError, tarfile.TarError, zlib.error, LZMAError)
"""What reading foreign data raises: by the hub (OSError), pyarrow (ValueError, IndexError), and damaged archives."""


@contextmanager
def data_errors(subject: str, expected: str) -> Iterator[None]:
    """Raise DataError, or StorageError where the operating system refused, for what `datasets` raises over data."""
    try:
        yield
    except FOREIGN as error:
        cause = error.__cause__ or error if isinstance(error, DatasetsError) else error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise storage_error(subject, cause) from error
        raise DataError(subject, got=str(cause) or type(cause).__name__, expected=expected) from error


def column_of(source: str, features: Features | None) -> str:
    """The column of encoded images, by the rule of `images.parquet.image_column`.

    Raises:
        DataError: there is none, or it is not clear which.
    """
    try:
        return image_column((features or Features()).arrow_schema)
    except NoImageColumn as error:
        expected = "one column of encoded images (bytes, or a struct with a field `bytes`)"
        remedy = f"name it one of {', '.join(PREFERRED)}"
        raise DataError(source, got=str(error), expected=expected, remedy=remedy) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and log lines of `datasets`, whose settings are put back: errors say it in one line."""
    shown, level = not are_progress_bars_disabled(), datasets_logging.get_verbosity()
    disable_progress_bars()
    datasets_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets_logging.set_verbosity(level)
        if shown:
            enable_progress_bars()
