"""The images of a source that cannot be read: left out and named, as long as they are few."""

from __future__ import annotations

from vqrae.runtimes.errors import DataError, ImageError

TOLERATED = 0.01
"""Share of a source's images that may be unreadable."""


class Unreadable:
    """Counts them, and stops when there are too many."""

    def __init__(self, source: str) -> None:
        """`source` is what the error calls the place that they come from."""
        self.source = source
        self.reasons: dict[str, str] = {}
        """Name -> why it could not be read, of those met so far."""
        self.count = 0

    def skip(self, error: ImageError, of: int, *, once: bool = True, least: int = 0) -> None:
        """Note an image that could not be read.

        Args:
            error: names it and says why.
            of: how many images there are, or were met so far.
            once: an image that is met again is not counted again.
            least: judge as if there were at least so many, where `of` is still growing.

        Raises:
            DataError: more than `TOLERATED` cannot be read.
        """
        self.count += not (once and error.subject in self.reasons)
        self.reasons[error.subject] = str(error)
        if self.count > TOLERATED * max(of, least):
            got = f"{self.count} of {of} images that cannot be read, the last: {error}"
            expected = f"at most {TOLERATED:.0%} of them"
            raise DataError(self.source, got=got, expected=expected, remedy="replace or remove them") from error
