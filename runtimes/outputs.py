"""The outputs of one command: apart from each other and from what it reads, and named for what they hold.

A name that comes from a file and becomes that of a file is judged before it is a path.

One rule for all verbs: what writes one format takes that format's suffix and no other.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from vqrae.runtimes.errors import UsageError, controls
from vqrae.runtimes.manifest import MANIFEST_FILE

ARRAYS = (".npy",)
TARS = (".tar",)


def check_suffix(path: Path, known: Iterable[str]) -> None:
    """Refuse a file whose name promises another format than it would hold.

    Raises:
        UsageError: its suffix, in any case, is not among the known ones.
    """
    known = tuple(known)
    if path.suffix.lower() not in known:
        expected = f"one of {', '.join(known)}" if len(known) > 1 else known[0]
        raise UsageError(str(path), got=f"suffix {path.suffix!r}", expected=expected)


def check_apart(outputs: Mapping[str, Path | None], inputs: Iterable[Path | str] = ()) -> None:
    """Refuse, before the work, outputs that would replace each other or what the command reads.

    Names that differ in case or in how an accent is composed are one file on some systems, and so they are here.

    Args:
        outputs: option, or what else it is called, -> file or folder; None is left out.
        inputs: files that are read, and folders that are read as wholes, such as bundles.

    Raises:
        UsageError: two outputs are one, or one lies in the other; or an output is an input, or holds one, or would
            replace a file of one, or be added to a bundle.
    """
    given = {name: path for name, path in outputs.items() if path is not None}
    places = {name: _place(path) for name, path in given.items()}
    for number, (name, place) in enumerate(places.items()):
        for other, earlier in list(places.items())[:number]:
            if _overlap(place, earlier):
                expected = f"another place than that of {other}"
                raise UsageError(f"{name} {given[name]}", got=f"{given[other]}, in which {other} is", expected=expected)
        for read in map(Path, inputs):
            if not read.exists() or not _overlap(place, _place(read)):
                continue
            added = len(place) > len(_place(read)) and not given[name].is_file()
            if not added or (read / MANIFEST_FILE).exists():  # which lists all of a bundle's files
                expected = f"a place apart from {read}"
                raise UsageError(f"{name} {given[name]}", got="what the command reads", expected=expected)


def _place(path: Path) -> tuple[str, ...]:
    followed = Path(os.path.realpath(path))  # not `resolve`, which raises where a link leads to itself
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in followed.parts)


def _overlap(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]


MOST_BYTES = 128
"""Of a name: what is put before and behind it has to fit the 255 that file systems take."""
_SEPARATORS = '/\\:*?"<>|'
"""What parts a path on some system, or what Windows takes for no name."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(10))}
"""What Windows takes for a device, with any ending."""


def file_name(name: str) -> str:
    """The name, if it can be that of a file on every system, and stays in its folder.

    Raises:
        ValueError: it cannot; says why, as `got`.
    """
    problem = _problem(name)
    if problem is not None:
        raise ValueError(f"{ascii(name)[:80]}, {problem}; a name becomes that of files")
    return name


def _problem(name: str) -> str | None:
    if not name.strip():
        return "which is empty"
    if found := [character for character in _SEPARATORS if character in name]:
        return f"which has a {found[0]!r}"
    if any(map(controls, name)):
        return "which has a control character"
    if len(name.encode()) > MOST_BYTES:
        return f"which is longer than {MOST_BYTES} bytes"
    if name[0] in ".-" or name[0].isspace():
        return "which begins with a dot, a dash or a space"
    if name[-1] == "." or name[-1].isspace():
        return "which ends with a dot or a space"
    if name.partition(".")[0].rstrip().casefold() in _DEVICES:
        return "which is a device on Windows"
    return None
