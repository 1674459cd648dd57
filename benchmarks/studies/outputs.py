"""Is every output there, old or new and whole, after `kill -9`? And on the disk before it counts, at which cost?

    python -m vqrae.benchmarks.studies.outputs kills export --kills 50
    python -m vqrae.benchmarks.studies.outputs syncs export tokenize train --rounds 5

`kills` kills a command and all that it started at random moments, opens what is there each time, then runs to the end
and compares with an undisturbed run. `syncs` reads the system calls, by strace: for each rename below the output's
folder, the file, or every file and folder of a folder, has to be synced before, and the folder that it lies in after;
then the command runs in turns with `fsync` and without. Both end with exit code 3 where an output is half-written, a
result differs, something temporary stays, or a sync is missing. strace is a package of every Linux distribution.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from safetensors import SafetensorError, safe_open

from vqrae.benchmarks.studies.study import StudyParser
from vqrae.benchmarks.studies.tokenize_kills import content_hash, write_data
from vqrae.checkpoint import from_pretrained
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable, VqraeError, run_as_program
from vqrae.runtimes.manifest import MANIFEST_FILE
from vqrae.tokenizing.token_files import read_tokens
from vqrae.training.state import STATE_FILE

IMAGES, PART, GRID = 60, 4, (32, 32)
SHORT = {"steps": "4", "batch_size": "2", "save_every": "1", "warmup": "0"}
SETTINGS = {
    **{f"{phase}.{name}": value for phase in ("pretrain", "stage1", "stage2") for name, value in SHORT.items()},
    "model.quantizer.init": "normal",
    "model.quantizer.codebook_size": "256",
    "stage2.refit_codebook": "false",
    "stage2.discriminator_start": "2",
}
TRACED = "openat,creat,mkdir,mkdirat,rename,renameat,renameat2,fsync,fdatasync"
CALL = re.compile(r"(\w+)\((.*)\)\s+= (\d+)")
NAMES = re.compile(r'"((?:[^"\\]|\\.)*)"')
WITHOUT = "import os\nos.fsync = lambda descriptor: None\n"


class Command(NamedTuple):
    """What is killed: `vqrae`'s arguments without `-o`, its output below that, and what opens it, or raises."""

    arguments: list[str]
    output: str
    look: Callable[[Path], str]


def commands(checkpoint: Path, bundle: Path | None, data: Path) -> dict[str, Command]:
    """Those that can be killed; the bundle is for `tokenize`, the data is made."""
    changes = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    tokenize = ["tokenize", str(bundle), str(data), "--part-images", str(PART), "--threads", "1"]
    exported = f"{checkpoint.name}-onnx-fp32"
    return {
        "export": Command(["export", str(checkpoint), "--images", "1", "--overwrite"], exported, _look_at_bundle),
        "tokenize": Command(tokenize, "", _look_at_tokens),
        "train": Command(["train", "tiny", "--data", str(data), *changes], "", _look_at_training),
    }


def _look_at_bundle(bundle: Path) -> str:
    manifest = Bundle.open(bundle).manifest  # hashes every file
    return f"of {manifest.created}"


def _look_at_tokens(folder: Path) -> str:
    parts = [read_tokens(path, GRID) for path in folder.glob("part-*")]
    return f"{len(parts)} parts" + (", complete" if (folder / "complete.json").exists() else "")


def _look_at_training(folder: Path) -> str:
    found = [stage for stage in ("stage1", "stage2") if (folder / stage).exists()]
    for stage in found:
        from_pretrained(folder / stage)
    for path in folder.glob(f"state/*/{STATE_FILE}"):
        with safe_open(path, framework="pt") as state:
            found.append(f"{path.parent.name} at step {state.metadata()['step']}")
    return ", ".join(found) or "nothing"


def run(command: Command, folder: Path, kill_after: float | None = None) -> float:
    """Run to the end, or kill after so many seconds; returns the seconds that it took."""
    line = [sys.executable, "-m", "vqrae", *command.arguments, "-o", str(folder)]
    began = time.monotonic()
    with (folder.parent / "log").open("w") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            started = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            psutil.wait_procs([it for it in started if _is_worker(it)], timeout=60)
            return time.monotonic() - began
    if process.returncode:
        last = (folder.parent / "log").read_text().splitlines()[-1:]
        raise GateFailure(" ".join(command.arguments[:2]), got=f"exit code {process.returncode}, {last}", expected="0")
    return time.monotonic() - began


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is one of Ray's that works for us, and still there."""
    try:
        return "MapWorker" in process.name()
    except psutil.NoSuchProcess:
        return False


def kills(command: Command, place: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """See the module; `place` is for everything that is written."""
    whole, killed = place / "whole", place / "killed"
    seconds, chance, seen = run(command, whole), random.Random(seed), Counter[str]()  # noqa: S311
    if command.arguments[0] == "export":
        run(command, killed)  # the old bundle, which the killed runs are to replace
    halves: list[str] = []
    while seen.total() + len(halves) < count:
        moment = chance.uniform(0, seconds)
        if run(command, killed, kill_after=moment) < moment:  # it had gone on, and was over before
            if command.arguments[0] != "export":
                shutil.rmtree(killed)
            continue
        try:
            seen[command.look(killed / command.output) if killed.exists() else "nothing"] += 1
        except (VqraeError, SafetensorError, OSError, ValueError) as error:
            halves.append(str(error))
    run(command, killed)
    left = sorted(str(path.relative_to(place)) for path in place.rglob(".*"))
    same = _compared(whole / command.output) == _compared(killed / command.output)
    found = {"kills": count, "seconds": round(seconds, 1), "whole": seen.total(), "half": halves, "seen": dict(seen)}
    return found | {"left": left, "same": same}


def _compared(output: Path) -> object:
    """What two runs have to agree in: all but the time of an export and of training's log."""
    if (output / MANIFEST_FILE).exists():
        return [(entry.path, entry.sha256) for entry in Bundle.open(output).manifest.files]
    trained = [content_hash(output / stage) for stage in ("stage1", "stage2") if (output / stage).exists()]
    return trained or content_hash(output)


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


def trace(command: Command, place: Path) -> dict[str, Any]:
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
    parser = StudyParser("outputs", __doc__)
    parser.add_argument("kind", choices=("kills", "syncs"))
    parser.add_argument("commands", nargs="+", choices=("export", "tokenize", "train"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=0, help="with fsync and without, for what it costs")
    parser.add_argument("--checkpoint", type=Path, default=Path("assets/vqrae-tiny"))
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="vqrae-outputs-") as temporary:
        checkpoint, data = options.checkpoint.resolve(), write_data(Path(temporary) / "data", IMAGES)
        exported, bundles = commands(checkpoint, None, data)["export"], Path(temporary) / "bundles"
        if "tokenize" in options.commands:
            run(exported, bundles)
        known = commands(checkpoint, bundles / exported.output, data)
        for name in options.commands:
            place = Path(temporary) / name
            place.mkdir()
            if options.kind == "kills":
                found[name] = kills(known[name], place, options.kills)
                continue
            found[name] = trace(known[name], place)
            if options.rounds:
                found[name]["seconds"] = cost(known[name], place, options.rounds)
    print(json.dumps(found, indent=2))
    for name, each in found.items():
        if each.get("half") or each.get("left") or not each.get("same", True):
            raise GateFailure(f"{name} after kill -9", got="half an output, or leftovers", expected="none")
        if each.get("missing"):
            raise GateFailure(name, got="renames that may be lost", expected="none")


if __name__ == "__main__":
    run_as_program(main)
