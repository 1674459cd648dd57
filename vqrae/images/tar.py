"""Tars, read so that damage is seen. What is read is what unpacking would give.

`tarfile` takes a damaged header for the end of the archive. Here it is a gap: it is told, and reading goes on at the
next header that is whole. An archive that ends without its mark is told, too: something may have been cut off.
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import (  # type: ignore[attr-defined] # the type stubs leave three of them out
    BLOCKSIZE,
    EmptyHeaderError,
    EOFHeaderError,
    HeaderError,
    InvalidHeaderError,
)
from typing import IO, NamedTuple, Self, cast

from vqrae.images.kinds import Why, kind_of
from vqrae.images.report import Damaged, LeftOut
from vqrae.runtimes.errors import damage_of
from vqrae.runtimes.preprocess import MAX_BYTES

MOST_EXTENSION_BYTES = 2**13
"""Of one header of long names or attributes: `tarfile` holds it in memory, and searches it in quadratic time."""
MOST_EXTENSIONS = 8
"""Such headers before one member: `tarfile` reads them by recursion."""
_MOST_BYTES = 2**50
"""Of a member; the position of the next one has to fit what files can be long."""
DAMAGED = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error)
"""What reading a damaged archive raises, by its compression; and OSError without a number."""
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")
_UNREADABLE = (HeaderError, ValueError, OverflowError, ArithmeticError, LookupError)
"""What `tarfile` raises over a header that is not what it should be."""


class Member(NamedTuple):
    """An image in a tar."""

    name: str
    """As in the archive; bytes that are no UTF-8 are surrogates."""
    offset: int
    """Of its first byte in the archive, after decompression."""
    size: int


@dataclass
class Contents:
    """What a tar holds."""

    members: list[Member] = field(default_factory=list)
    """The images, in the archive's order; of one name, the last, as it is when unpacked. Links have their target's
    bytes, if that is an image."""
    left_out: list[LeftOut] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)


def contents_of(path: Path, name: str) -> Contents:
    """Read all headers; `name` is the archive's in what is told.

    Raises:
        StorageError: the operating system refused to read.
    """
    contents = Contents()
    files: dict[str, Member] = {}
    links: dict[str, tuple[str, str]] = {}

    def leave_out(member: str, why: Why) -> None:
        contents.left_out.append(LeftOut.of(f"{name}/{member}", why))

    try:
        with _opened(path) as archive:
            for info in _infos(archive):
                gap = archive.gap_before(info.offset)
                contents.damaged += [Damaged.of(name, gap)] if gap else []
                place, why = posixpath.normpath(info.name), _why_not(info)
                if why is not None:
                    if not info.isdir():
                        leave_out(info.name, why)
                    continue
                if place in files or place in links:
                    leave_out(files.pop(place).name if place in files else links.pop(place)[0], "repeated")
                if info.isreg():
                    files[place] = Member(info.name, info.offset_data, info.size)
                else:
                    links[place] = info.name, _target(info)
            end = archive.problem_at_end()
    except (*DAMAGED, OSError) as error:
        end = f"{damage_of(path, error)}: what follows is missing"
    contents.damaged += [Damaged.of(name, f"damaged archive, {end}")] if end else []
    for place, (member, target) in links.items():
        if target in files and place not in files:
            contents.members.append(files[target]._replace(name=member))
        else:
            leave_out(member, "link")
    contents.members = sorted((*files.values(), *contents.members), key=lambda member: member.offset)
    return contents


def read_members(path: Path, members: Sequence[Member]) -> Iterator[bytes | str]:
    """The content of each, or why there is none.

    Raises:
        StorageError: the operating system refused to read.
    """
    left = iter(members)
    try:
        with _opened(path) as archive:
            for member in left:
                yield _content(path, archive, member)
    except (*DAMAGED, OSError) as error:
        problem = damage_of(path, error)  # with opening it: what is wrong with a member is its content
        yield from (problem for _ in left)


def _content(path: Path, archive: _Archive, member: Member) -> bytes | str:
    info = tarfile.TarInfo(member.name)
    info.offset_data, info.size = member.offset, member.size
    if member.size > MAX_BYTES:
        return f"{member.size:,} bytes, more than {MAX_BYTES:,}"
    try:
        content = cast("IO[bytes]", archive.extractfile(info)).read()
    except (*DAMAGED, OSError) as error:
        return f"the archive is damaged there ({damage_of(path, error)})"
    return content if len(content) == member.size else "the archive ends within it"


def _why_not(info: tarfile.TarInfo) -> Why | None:
    """Why a member is no image; None of one that is."""
    kind = kind_of(info.name)
    if kind == "images":
        linked = info.issym() or info.islnk()
        return None if linked or (info.isreg() and not info.issparse()) else "special"
    return "other" if kind == "tar" or kind == "parquet" else kind


def _target(info: tarfile.TarInfo) -> str:
    """Where a link leads, as a path within the archive."""
    start = posixpath.dirname(info.name) if info.issym() else ""
    return posixpath.normpath(posixpath.join(start, info.linkname))


class _Header(tarfile.TarInfo):
    """A header that does not let damage pass."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        made = super().frombuf(buf, encoding, errors)
        if not 0 <= made.size < _MOST_BYTES:
            raise InvalidHeaderError(f"a size of {made.size} bytes")
        if made.type in _EXTENSIONS and made.size > MOST_EXTENSION_BYTES:
            raise InvalidHeaderError(f"an extension of {made.size} bytes")
        return made

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        archive = cast("_Archive", tarfile)
        start = archive.fileobj.tell()
        archive.depth += 1
        try:
            if archive.depth > MOST_EXTENSIONS:
                raise InvalidHeaderError("too many extensions")
            made = super().fromtarfile(archive)
            if not 0 <= made.size < _MOST_BYTES or archive.offset <= start:  # an extension may have set it
                raise InvalidHeaderError(f"a size of {made.size} bytes")
        except EOFHeaderError:
            archive.zeros_at = start
            raise
        except EmptyHeaderError:
            archive.length = start
            raise
        except _UNREADABLE as error:
            archive.failed = archive.failed or (start, str(error))
            archive.fileobj.seek(start + BLOCKSIZE)  # where the next header may be
            archive.offset = start
            raise InvalidHeaderError(str(error)) from error
        finally:
            archive.depth -= 1
        return made


class _Archive(tarfile.TarFile):
    """Goes on behind what is damaged, and knows where it was."""

    tarinfo = _Header
    fileobj: IO[bytes]
    depth = 0
    """Of extensions, of the header that is being read."""
    failed: tuple[int, str] | None = None
    """Where a block that should be a header is none, and why; the first one since the last member."""
    zeros_at = length = -1
    """The last block of zeros, which marks an end, and the archive's length, once they were met."""

    def gap_before(self, offset: int) -> str | None:
        """What was passed over before the member at `offset`, if anything."""
        if self.failed is None:
            return None
        (start, reason), self.failed = self.failed, None
        return f"damaged archive: what lay in bytes {start:,} to {offset:,} is missing ({reason})"

    def problem_at_end(self) -> str | None:
        """What is wrong with the archive's end, if anything."""
        if self.failed is not None:
            return f"what lay from byte {self.failed[0]:,} on is missing ({self.failed[1]})"
        ended = 0 <= self.zeros_at == self.length - BLOCKSIZE
        return None if ended else "cut: the mark of its end is missing, and maybe what was before it"


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    with _Archive.open(path, "r:*", ignore_zeros=True, encoding="utf-8", errors="surrogateescape") as archive:
        yield archive


def _infos(archive: _Archive) -> Iterator[tarfile.TarInfo]:
    """All members; the archive forgets what it has passed, so that memory does not grow."""
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # the type stubs leave it out
        yield info
