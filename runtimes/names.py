"""Names that come from files and become the names of files: judged before they are a path."""

from __future__ import annotations

from vqrae.runtimes.errors import controls

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
