"""coremltools, imported without a word: it has notes on standard error for every framework that it finds installed."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

__all__ = ["TITLE", "ct", "quiet_coremltools"]


@contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Without its notes and progress bars; what matters is raised. Not for several threads, who share the stream."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="coremltools")  # of its own calls
            warnings.filterwarnings("ignore", category=ResourceWarning, message="Implicitly cleaning up")  # its own too
            yield
    finally:
        logger.setLevel(level)


with quiet_coremltools():
    import coremltools as ct
    import coremltools.converters.mil.frontend.milproto  # not brought by the line above; used as an attribute of `ct`

TITLE = f"coremltools {ct.__version__}"
