"""Does an engine fit this machine? Compared before the framework sees a byte of it, and explained."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from vqrae.runtimes.errors import EngineMismatch
from vqrae.runtimes.manifest import EngineTies, GraphSpec

PORTABLE = "any"
"""The platform of an engine that every operating system loads."""


def this_platform() -> str:
    """Operating system and architecture, such as `linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}".lower()


def check_library(path: Path, graph: GraphSpec, ties: EngineTies, *, title: str, version: str, system: str) -> None:
    """Compare the framework and the operating system; needs no GPU.

    Args:
        path: the engine's file.
        graph: what the manifest says of it.
        ties: what the engine is tied to.
        title: the framework's name.
        version: the framework's version on this machine.
        system: `this_platform()`.

    Raises:
        EngineMismatch: the engine does not fit.
    """
    if ties.platform not in (PORTABLE, system):
        raise _mismatch(path, graph, got=f"{system} here", expected=f"{ties.platform}, which it was built on")
    same, newer = version == ties.version, _is_newer_minor(version, ties.version)
    if not (same or (ties.any_newer_version and newer)):
        builder = f"{ties.version}, which built it" + (", or a later one" if ties.any_newer_version else "")
        raise _mismatch(path, graph, got=f"{title} {version} here", expected=builder)


def check_hardware(path: Path, graph: GraphSpec, ties: EngineTies, *, gpu: str, compute_capability: str) -> None:
    """Compare the GPU; arguments as for `check_library`.

    Raises:
        EngineMismatch: the engine was compiled for other GPUs.
    """
    compiled_for = ties.compute_capabilities
    least = min(compiled_for, key=_numbers, default=compute_capability)
    higher = ties.newer_hardware and _numbers(compute_capability) >= _numbers(least)
    if compute_capability not in compiled_for and not higher:
        expected = f"{least} or higher" if ties.newer_hardware else " or ".join(compiled_for)
        got = f"compute capability {compute_capability} of {gpu}"
        raise _mismatch(path, graph, got=got, expected=f"{expected}, which it was built for")


def _mismatch(path: Path, graph: GraphSpec, *, got: str, expected: str) -> EngineMismatch:
    remedy = "rebuild it here: `vqrae selftest BUNDLE --rebuild`, or vqrae.load(path, rebuild=True)"
    if graph.source is None:
        remedy = "export it again on a machine like this one: the bundle holds no ONNX to rebuild it from"
    return EngineMismatch(str(path), got=got, expected=expected, remedy=remedy)


def _is_newer_minor(version: str, than: str) -> bool:
    """Later, and of the same major version."""
    mine, other = _numbers(version), _numbers(than)
    return mine[:1] == other[:1] and mine >= other


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
