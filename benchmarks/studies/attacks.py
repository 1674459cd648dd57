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
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch

from vqrae.benchmarks.studies.attack_server import attack_server
from vqrae.benchmarks.studies.attack_stage import Outcomes, Stage
from vqrae.benchmarks.studies.attack_trials import MOMENTS, Trials
from vqrae.benchmarks.studies.study import StudyParser
from vqrae.checkpoint import Checkpoint, open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.runtimes.errors import GateFailure, UsageError, run_as_program, unknown_name

PROGRESS = 50
"""Trials between two words on how it goes."""
OTHERS = 0o077
PERIOD_S = 0.005
PREFIX = "vqrae-sealed-"
GOOD, EVIL = "good", "evil"
RECIPES = {
    "onnx": ("assets/vqrae-tiny", "onnx"),
    "openvino": ("assets/vqrae-tiny", "openvino"),
    "coreml": ("assets/vqrae-tiny", "coreml"),
    "base-onnx": ("base", "onnx"),
    "base-openvino": ("base", "openvino"),
}
"""What can be made -> a checkpoint (below the checkout) or a preset, and a format."""
NOISE = 0.1
"""Each weight of a matrix is multiplied by 1 + this much of a normal variable. Vectors stay: in a fresh model they are
ones and zeros, which an export shares, and the files' sizes shall agree."""
IMAGES = 4


class FolderWatch:
    """Looks again and again, while the block runs, at the folders that hold files."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._modes: set[int] = set()
        self._seen: set[Path] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> FolderWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_private(self) -> bool:
        """Whether nobody else could read any of them."""
        return not any(mode & OTHERS for mode in self._modes)

    def __str__(self) -> str:
        modes = ", ".join(f"{mode:04o}" for mode in sorted(self._modes)) or "none"
        left = sum(path.is_file() for path in self._root.rglob("*"))
        return f"{len(self._seen)} private folders seen, modes {modes}, {left} files left"

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            try:
                for path in self._root.rglob("*"):
                    if path.is_file():
                        # What lies deeper in a private folder is as closed as that is.
                        private = next((it for it in path.parents if it.name.startswith(PREFIX)), path.parent)
                        self._modes.add(private.stat().st_mode & 0o777)
                        self._seen.add(private)
            except FileNotFoundError:  # it was deleted meanwhile, as it should be; the next look begins anew
                continue


def make_twins(recipe: str, folder: Path, report: Callable[[str], None]) -> tuple[Path, Path]:
    """Export a checkpoint at FP32, and the same one with other weights, as FOLDER/good and FOLDER/evil.

    Args:
        recipe: one of `RECIPES`.
        folder: where they come to lie.
        report: told of each step as it begins.

    Raises:
        UsageError: no such recipe.
    """
    if recipe not in RECIPES:
        raise unknown_name("--make", recipe, RECIPES)
    source, format_name = RECIPES[recipe]
    checkpoint = open_checkpoint(source)
    good = _exported(checkpoint, format_name, folder / GOOD, report)
    with tempfile.TemporaryDirectory(prefix="vqrae-evil-") as written:
        save_pretrained(_perturbed(checkpoint).model, Path(written) / EVIL)
        evil = _exported(open_checkpoint(str(Path(written) / EVIL)), format_name, folder / EVIL, report)
    return good, evil


def _perturbed(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, whose weights were changed in place."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1 + NOISE * torch.randn(parameter.shape, generator=noise))
    return checkpoint


def _exported(checkpoint: Checkpoint, format_name: str, path: Path, report: Callable[[str], None]) -> Path:
    images = parity_images(None, checkpoint.model.size, IMAGES)
    with BundleBuilder(VqraeTokenizer(checkpoint), images, lambda step: report(f"{path.name}: {step}")) as builder:
        row = builder.build(target(format_name), path.parent)
    return Path(row.bundle).rename(path)


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
    print(outcomes.table([moment.name for moment in MOMENTS]), end="")
    print(f"errors: {dict(errors)}; {watch}; {time.monotonic() - started:.0f} s")
    print(f"{stage.manifest.name}: {trials} trials: {dict(outcomes.total)}")
    return outcomes.fine and watch.is_private


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = StudyParser("attacks", __doc__)
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
        make_twins(given.make, given.bundle, print)
        return
    evil = given.evil or given.bundle.with_name("evil")
    if not evil.is_dir():
        raise UsageError("--evil", got=f"no folder {evil}", expected="the bundle's twin", remedy="see --make")
    with tempfile.TemporaryDirectory(prefix="vqrae-attacks-") as folder:
        stage = Stage(given.bundle.resolve(), evil.resolve(), Path(folder), random.Random(given.seed))  # noqa: S311
        if given.server:
            more = [] if given.sealing is None else ["--sealing", given.sealing]
            right = attack_server(stage, given.trials, key=bool(given.key), options=more)
        else:
            private = Path(folder) / "private"
            right = attack(stage, given.trials, key=given.key, sealing=given.sealing, private=private)
    if not right:
        raise GateFailure("sealed bytes", got="what the table says", expected="right answers and errors only")


if __name__ == "__main__":
    run_as_program(main)
