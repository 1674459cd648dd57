"""`kill -9` at random moments of a command that writes: is the old output there, or the new one, whole?

    python -m vqrae.benchmarks.studies.output_kills export --kills 50

Kills the command and all that it started, opens what is there each time, then runs to the end and compares with an
undisturbed run. Ends with exit code 3 where an output is half-written, a result differs, or something temporary stays.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
from safetensors import SafetensorError, safe_open

from vqrae.benchmarks.studies.tokenize_kills import content_hash, write_data
from vqrae.checkpoint import from_pretrained
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import GateFailure, VqraeError, run_as_program
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


def kills(command: Command, place: Path, count: int, seed: int = 0) -> dict[str, object]:
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="kill -9 at random moments of a command that writes.")
    parser.add_argument("command", choices=["export", "tokenize", "train"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--checkpoint", type=Path, default=Path("assets/vqrae-tiny"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqrae-kills-") as folder:
        place, bundle, data = Path(folder), None, write_data(Path(folder) / "data", IMAGES)
        checkpoint = options.checkpoint.resolve()
        if options.command == "tokenize":
            exported = commands(checkpoint, None, data)["export"]
            run(exported, place / "bundles")
            bundle = place / "bundles" / exported.output
        found = kills(commands(checkpoint, bundle, data)[options.command], place, options.kills)
    print(json.dumps(found, indent=2))
    if found["half"] or found["left"] or not found["same"]:
        raise GateFailure(f"{options.command} after kill -9", got="half an output, or leftovers", expected="none")


if __name__ == "__main__":
    run_as_program(main)
