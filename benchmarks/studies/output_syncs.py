"""Is every output on the disk before it counts, and what does that cost? From the system calls, by strace.

    python -m vqrae.benchmarks.studies.output_syncs export tokenize train --rounds 5

For each rename below the output's folder, the file, or every file and folder of a folder, has to be synced before, and
the folder that it lies in after. Then export and tokenize run in turns with `fsync` and without. Ends with exit code 3
where a sync is missing. strace is a package of every Linux distribution.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vqrae.benchmarks.studies.output_kills import IMAGES, Command, commands, run
from vqrae.benchmarks.studies.tokenize_kills import write_data
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable, run_as_program

TRACED = "openat,creat,mkdir,mkdirat,rename,renameat,renameat2,fsync,fdatasync"
CALL = re.compile(r"(\w+)\((.*)\)\s+= (\d+)")
NAMES = re.compile(r'"((?:[^"\\]|\\.)*)"')
WITHOUT = "import os\nos.fsync = lambda descriptor: None\n"


class Call(NamedTuple):
    """A system call that succeeded."""

    kind: str
    """made, synced or renamed."""
    path: str
    target: str = ""


def calls(text: str) -> Iterator[Call]:
    """Of strace's output, in the order in which they ended; relative names are left out, ours are whole."""
    pending: dict[str, str] = {}
    for line in text.splitlines():
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            pending[process] = rest.removesuffix("<unfinished ...>")
            continue
        if rest.startswith("<..."):
            rest = pending.pop(process, "") + rest.partition("resumed>")[2]
        found = CALL.match(rest)
        if found is None:
            continue
        name, arguments, names = found[1], found[2], NAMES.findall(found[2])
        if name in ("fsync", "fdatasync"):
            yield Call("synced", arguments.partition("<")[2].rpartition(">")[0])
        elif name.startswith("rename"):
            yield Call("renamed", names[0], names[1])
        elif name.startswith("mkdir") or "O_CREAT" in arguments or name == "creat":
            yield Call("made", names[0])


def missing_syncs(traced: Sequence[Call], root: Path) -> list[str]:
    """What is wrong with the renames to names below `root`."""
    wrong: list[str] = []
    unsynced: set[str] = set()
    for number, call in enumerate(traced):
        if call.kind == "made":
            unsynced.add(call.path)
        if call.kind == "synced":
            unsynced.discard(call.path)
        if call.kind != "renamed" or not call.target.startswith(f"{root}/"):
            continue
        if ".staging-" in call.target:  # a library's own way to write, which counts for nothing yet
            unsynced = unsynced - {call.path} | {call.target}
            continue
        inside = [path for path in sorted(unsynced) if path == call.path or path.startswith(f"{call.path}/")]
        wrong += [f"{path} was not synced before {call.target} counted" for path in inside]
        folder = str(Path(call.target).parent)
        if Call("synced", folder) not in traced[number:]:
            wrong.append(f"{folder} was not synced after {call.target} came there")
    return wrong


def trace(command: Command, place: Path) -> dict[str, object]:
    """Run a command under strace."""
    strace = shutil.which("strace")
    if strace is None:
        raise RuntimeUnavailable("strace", got="no such command", expected="one", remedy="`apt-get install strace`")
    log, folder = place / "strace", place / "traced"
    line = [strace, "-f", "-y", "-s", "4096", "-e", f"trace={TRACED}", "-o", str(log), sys.executable, "-m", "vqrae"]
    subprocess.run([*line, *command.arguments, "-o", str(folder)], check=True, capture_output=True)  # noqa: S603
    found = list(calls(log.read_text(errors="replace")))
    renamed = [call for call in found if call.kind == "renamed" and call.target.startswith(f"{folder}/")]
    return {"renames": len(renamed), "missing": missing_syncs(found, folder)}


def cost(command: Command, place: Path, rounds: int) -> dict[str, float]:
    """Seconds of a command with `fsync` and without, in turns; one of each before that does not count."""
    (place / "without").mkdir()
    (place / "without" / "sitecustomize.py").write_text(WITHOUT)  # which every interpreter reads, Ray's workers too
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    path = os.environ.get("PYTHONPATH", "")
    for number in range(rounds + 1):
        for kind in seconds:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(place / "without"), path][kind == "with" :]))
            took = run(command, place / f"{kind}-{number}")
            if number:
                seconds[kind].append(took)
    os.environ["PYTHONPATH"] = path
    ratio = statistics.median(a / b for a, b in zip(seconds["with"], seconds["without"], strict=True))
    return {name: round(statistics.median(each), 2) for name, each in seconds.items()} | {"ratio": round(ratio, 3)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Syncs before and after each rename that makes an output count.")
    parser.add_argument("commands", nargs="+", choices=["export", "tokenize", "train"])
    parser.add_argument("--rounds", type=int, default=0, help="with fsync and without, for what it costs")
    parser.add_argument("--checkpoint", type=Path, default=Path("assets/vqrae-tiny"))
    options = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="vqrae-syncs-") as temporary:
        checkpoint, data = options.checkpoint.resolve(), write_data(Path(temporary) / "data", IMAGES)
        exported = commands(checkpoint, None, data)["export"]
        if "tokenize" in options.commands:
            run(exported, Path(temporary) / "bundles")
        known = commands(checkpoint, Path(temporary) / "bundles" / exported.output, data)
        for name in options.commands:
            place = Path(temporary) / name
            place.mkdir()
            found[name] = trace(known[name], place)
            if options.rounds:
                found[name]["seconds"] = cost(known[name], place, options.rounds)
    print(json.dumps(found, indent=2))
    if any(each["missing"] for each in found.values()):
        raise GateFailure("outputs", got="renames that may be lost", expected="none")


if __name__ == "__main__":
    run_as_program(main)
