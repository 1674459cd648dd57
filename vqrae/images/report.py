"""What was taken, what was left out, and what is damaged: nothing that is there is passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from vqrae.images.kinds import WORDS, Why, key_of
from vqrae.runtimes.errors import DataError, ImageError
from vqrae.runtimes.json_text import Record

_NAMED = 3
"""Names of each kind in a line for people."""
TOLERATED = 0.01
"""Share of a source's images that may be unreadable."""


class LeftOut(Record):
    """A file, a member of an archive, or a folder that was not looked for images in."""

    key: str
    """Its path below the data set's root, see `key_of`; in a container, that file's path, `/`, and its name there."""
    why: Why

    @classmethod
    def of(cls, name: str, why: Why) -> LeftOut:
        """`name` may hold any bytes."""
        return cls(key=key_of(name), why=why)


class Damaged(Record):
    """An image, or a part of a container, that is there and cannot be read."""

    key: str
    reason: str

    @classmethod
    def of(cls, name: str, reason: str) -> Damaged:
        """`name` may hold any bytes."""
        return cls(key=key_of(name), reason=reason)


class Unreadable:
    """The images of a source that cannot be read: left out and named, as long as they are few."""

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


def counted(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """How many of each kind, the most frequent first."""
    return dict(Counter(it.why for it in left_out).most_common())


def lines_of(left_out: Sequence[LeftOut], damaged: Sequence[Damaged]) -> list[str]:
    """For people, where there is anything: `left out 3: 2 hidden (._a.jpg, .b.png), 1 of other kinds (notes.txt)`."""
    made = []
    if left_out:
        names = {why: [it.key for it in left_out if it.why == why] for why in counted(left_out)}
        kinds = (f"{len(keys):,} {WORDS[why]} ({some(keys)})" for why, keys in names.items())
        made.append(f"left out {len(left_out):,}: {', '.join(kinds)}")
    if damaged:
        first = f"{'the first: ' if len(damaged) > 1 else ''}{damaged[0].reason}"
        made.append(f"damaged {len(damaged):,}: {some([it.key for it in damaged])} ({first})")
    return made


class _Aside(Protocol):
    @property
    def left_out(self) -> Sequence[LeftOut]: ...

    @property
    def damaged(self) -> Sequence[Damaged]: ...


def note_aside(what: str, images: _Aside, note: Callable[[str], None]) -> None:
    """Tell what of a source was left out or cannot be read, counted and named."""
    for line in lines_of(images.left_out, images.damaged):
        note(f"{what}: {line}")


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def taken_words(taken: Mapping[str, int]) -> str:
    """For people, where images came from more than files of their own: ` (1 in files of their own, 5 in tars)`."""
    words = {"images": "in files of their own", "tar": "in tars", "parquet": "in Parquet files"}
    told = ", ".join(f"{count:,} {words[kind]}" for kind, count in taken.items())
    return f" ({told})" if {*taken} - {"images"} else ""
