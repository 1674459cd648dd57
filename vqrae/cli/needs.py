"""What a verb says when the extra that it needs is not installed: the command that adds it, never run for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Wrap the imports that need an extra of this project.

    Raises:
        RuntimeUnavailable: one of them is not installed.
    """
    from vqrae.runtimes.errors import RuntimeUnavailable

    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("vqrae"):
            raise  # our own mistake, not a missing package
        remedy = f"install it with `pip install 'vqrae[{extra}]'`"
        raise RuntimeUnavailable(error.name, got="not installed", remedy=remedy) from error
