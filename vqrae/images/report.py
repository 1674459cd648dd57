"""What was taken, what was left out, and what is damaged: nothing that is there is passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from vqrae.images.kinds import WORDS, Why, key_of
from vqrae.runtimes.manifest import Record

_NAMED = 3
"""Names of each kind in a line for people."""


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
