"""Are the bytes that were hashed the bytes that run? A bundle is attacked before, while and after it is loaded.

    python -m vqrae.benchmarks.studies.attacks --make onnx /tmp/twins
    python -m vqrae.benchmarks.studies.attacks /tmp/twins/good --trials 500
    python -m vqrae.benchmarks.studies.attacks /tmp/twins/good --trials 50 --server

A right outcome is the bundle's answers, bit for bit, or an error of ours. Without a key, a bundle that was exchanged as
a whole before its manifest was read is simply another one; then all of its answers are right, or none. Ends with exit
code 3 where an answer was wrong, or a process died, hung, or raised an error of another kind. Linux only; TensorRT and
TensorRT-RTX need a device, and are not tried.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from vqrae.benchmarks.studies.attacks.outcomes import Outcomes
from vqrae.benchmarks.studies.attacks.stage import Stage
from vqrae.benchmarks.studies.attacks.trials import MOMENTS, Trials
from vqrae.benchmarks.studies.attacks.watch import FolderWatch
from vqrae.runtimes.errors import GateFailure, UsageError, run_as_program

PROGRESS = 50
"""Trials between two words on how it goes."""


def attack(stage: Stage, trials: int, *, key: bool | None, sealing: str | None, private: Path) -> bool:
    """Run the trials, print what came of them, and say whether all is right.

    Args:
        stage: what is attacked.
        trials: how many.
        key: whether with a public key; None is both.
        sealing: what `vqrae.load` is given; None is nothing.
        private: the folder that the workers are given as their user's cache.
    """
    outcomes, errors, started = Outcomes(), Counter[str](), time.monotonic()
    with FolderWatch(private) as watch, closing(Trials(stage, sealing, private)) as attacked:
        for kind, moment, with_key in islice(attacked.plan([False, True] if key is None else [key]), trials):
            outcome, met = attacked.run(kind, moment, with_key)
            outcomes.add(kind, moment.name, outcome)
            errors.update(met)
            if not outcomes.total.total() % PROGRESS:
                print(dict(outcomes.total), file=sys.stderr, flush=True)
    for line in outcomes.table([moment.name for moment in MOMENTS]):
        print(line)
    print(f"errors: {dict(errors)}; {watch}; {time.monotonic() - started:.0f} s")
    print(f"{stage.manifest.name}: {trials} trials: {dict(outcomes.total)}")
    return outcomes.fine and watch.is_private


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Attacks on the bytes of a bundle.")
    parser.add_argument("bundle", type=Path, help="the good one; with --make, the folder to make both in")
    parser.add_argument("--evil", type=Path, help="its twin with other weights; `evil` beside it if not given")
    parser.add_argument("--make", help="export both first: onnx, openvino, coreml, base-onnx, base-openvino")
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument(
        "--key", action=argparse.BooleanOptionalAction, help="with a public key, or without; both if not given"
    )
    parser.add_argument("--sealing", help="what `vqrae.load` is given as `sealing`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", action="store_true", help="attack what `vqrae serve` serves")
    given = parser.parse_args(arguments)
    if given.make:
        from vqrae.benchmarks.studies.attacks.twins import make_twins  # needs torch, which attacks do not

        make_twins(given.make, given.bundle, print)
        return
    evil = given.evil or given.bundle.with_name("evil")
    if not evil.is_dir():
        raise UsageError("--evil", got=f"no folder {evil}", expected="the bundle's twin", remedy="see --make")
    with tempfile.TemporaryDirectory(prefix="vqrae-attacks-") as folder:
        stage = Stage(given.bundle.resolve(), evil.resolve(), Path(folder), random.Random(given.seed))  # noqa: S311
        if given.server:
            from vqrae.benchmarks.studies.attacks.server import attack_server  # brings psutil

            more = [] if given.sealing is None else ["--sealing", given.sealing]
            right = attack_server(stage, given.trials, key=bool(given.key), options=more)
        else:
            private = Path(folder) / "private"
            right = attack(stage, given.trials, key=given.key, sealing=given.sealing, private=private)
    if not right:
        raise GateFailure("sealed bytes", got="what the table says", expected="right answers and errors only")


if __name__ == "__main__":
    run_as_program(main)
