"""One attack on a bundle that is being loaded by a process of its own, and the judgement of what came of it.

As a program this module is that process: it loads the bundles that it is told to and answers with hashes, so that
whatever kills it is seen from outside. It reads requests from standard input, one line of JSON each, and writes as many
lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.studies.attack_stage import (
    CACHE_OF_ANOTHER,
    ERROR,
    ON_A_FILE,
    ON_ALL,
    ON_THE_CACHE,
    RIGHT,
    THERE_AND_BACK,
    WRONG,
    Stage,
    attacking,
)
from vqrae.runtimes.errors import GateFailure, VqraeError
from vqrae.runtimes.tokenizer import Tokenizer, load

STEPS = ("load", "encode", "encode", "decode", "decode")
OTHER_BUNDLE = {*ON_ALL, "manifest", "manifest and file", "folder, there and back", "parent, there and back"}
"""Kinds that bring another manifest, which without a key is another bundle's."""
CACHED = ("openvino",)
"""Runtimes that keep what they compile, and run here."""
LOADED, SKIPPED = "loaded", "skipped"
"""What comes of `load`; the answer where nothing was loaded."""


class WorkerDied(Exception):  # noqa: N818 - an outcome that is counted
    """Its message is the signal's name, or `hang`."""


class Worker:
    """The process, seen from outside."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", f"{__package__}.attack_trials"]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # `select` sees what was not read, not what lies in a buffer
            env={**os.environ, **environment},
        )

    def send(self, **request: Any) -> None:
        """Have it do something; it takes one request after the other."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerDied(self._end()) from error

    def answer(self, seconds: float) -> str:
        """What came of the oldest request: a hash, or an error's class.

        Raises:
            WorkerDied: it died, or said nothing for so long and was killed.
        """
        assert self._process.stdout is not None  # noqa: S101
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            self.close()
            raise WorkerDied("hang")
        if not (line := self._process.stdout.readline()):
            raise WorkerDied(self._end())
        return line.decode().strip()

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._end()

    def _end(self) -> str:
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _Tokenizers:
    """One at a time."""

    def __init__(self) -> None:
        self.loaded: Tokenizer | None = None

    def done(self, request: dict[str, Any]) -> str:
        """What came of a request."""
        if request["do"] == "load":
            self.close()
            self.loaded = load(request["path"], threads=1, **request["options"])
            return LOADED
        if self.loaded is None:
            return SKIPPED
        if request["do"] == "encode":
            encoding = self.loaded.encode(_images(self.loaded))
            return _hash(encoding.indices, encoding.features)
        return _hash(self.loaded.decode(_indices(self.loaded)))

    def close(self) -> None:
        """Nothing of the last one stays, whatever it was."""
        if self.loaded is not None:
            self.loaded.close()
            self.loaded = None


def _images(tokenizer: Tokenizer) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, *tokenizer.image_size, 3), np.uint8)


def _indices(tokenizer: Tokenizer) -> NDArray[np.int32]:
    return np.random.default_rng(0).integers(0, tokenizer.codebook_size, tokenizer.grid, np.int32)


def _hash(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


@dataclass(frozen=True)
class Moment:
    """When an attack begins: once `after` steps were answered, at a random moment of those that follow until `sent`."""

    name: str
    after: int
    sent: int

    @property
    def graph(self) -> str:
        """Whose files are attacked: what is loaded next, or was just now."""
        return "encode" if self.after < 3 else "decode"


MOMENTS = (
    Moment("before load", 0, 0),
    Moment("during load", 0, 2),
    Moment("load to encode", 1, 1),
    Moment("during encode", 1, 2),
    Moment("encode to encode", 2, 2),
    Moment("encode to decode", 3, 3),
    Moment("during decode", 3, 4),
    Moment("decode to decode", 4, 4),
)


class Trials:
    """Attacks on one stage, by one worker as long as it lives."""

    def __init__(self, stage: Stage, sealing: str | None, private: Path) -> None:
        self._stage, self._environment = stage, {"XDG_CACHE_HOME": str(private)}
        self._options = {} if sealing is None else {"sealing": sealing}
        self._limit, self._worker = 600.0, Worker(self._environment)
        self.right, self._seconds = self._undisturbed(), 0.0
        started = time.monotonic()
        if self._undisturbed() != self.right:
            raise GateFailure("the bundle alone", got="other answers the second time", expected="the same")
        self._seconds = (time.monotonic() - started) / 2  # of either graph
        self._limit = 10 + 20 * self._seconds
        if self._cached:
            self._undisturbed(cache=str(stage.caches[0]))
        with stage.exchanged():
            self.evil = self._undisturbed(cache=str(stage.caches[1])) if self._cached else self._undisturbed()
        if any(good == evil for good, evil in zip(self.right[1:], self.evil[1:], strict=True)):
            raise GateFailure("the evil bundle", got="answers of the good one", expected="others")

    @property
    def _cached(self) -> bool:
        return self._stage.manifest.runtime.name in CACHED

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def plan(self, keys: Sequence[bool]) -> Iterator[tuple[str, Moment, bool]]:
        """Kinds, moments, and with or without a key: all of them once before any comes again, in an order by chance."""
        kinds = [*ON_A_FILE, *THERE_AND_BACK, *ON_ALL, *(ON_THE_CACHE if self._cached else ())]
        plan = list(product(kinds, MOMENTS, keys))
        self._stage.chance.shuffle(plan)
        return cycle(plan)

    def run(self, kind: str, moment: Moment, key: bool) -> tuple[str, list[str]]:
        """The outcome of one attack, and the errors that were met."""
        stage, chance = self._stage, self._stage.chance
        options = {**self._options, **({"public_key": str(stage.public_key)} if key else {})}
        if kind in ON_THE_CACHE:
            options["cache"] = str(stage.warm_cache(evil=kind == CACHE_OF_ANOTHER))
        file = chance.choice(stage.files_of(stage.manifest.graphs[moment.graph]))
        answers: list[str] = []
        try:
            answers += self._answers(STEPS[: moment.after], options)
            for step in STEPS[moment.after : moment.sent]:
                self._send(step, options)
            time.sleep(chance.uniform(0, self._seconds) if moment.sent > moment.after else 0)
            with attacking(stage, kind, file):
                answers += [self._worker.answer(self._limit) for _ in STEPS[moment.after : moment.sent]]
                answers += self._answers(STEPS[moment.sent :], options)
        except WorkerDied as death:
            self._worker = Worker(self._environment)
            stage.reset()
            self._undisturbed()  # its first load imports the runtime, which is no moment to be attacked in
            return str(death), []
        stage.reset()
        foreign = kind in OTHER_BUNDLE and moment.after == 0 and not key
        return self._judged(answers, foreign), [
            it for it in answers if not _is_hash(it) and it not in (LOADED, SKIPPED)
        ]

    def _judged(self, answers: Sequence[str], foreign: bool) -> str:
        given = [(step, answer) for step, answer in enumerate(answers) if _is_hash(answer)]
        if other := [answer for answer in answers if answer.startswith("other ")]:
            return other[0]
        good = all(answer == self.right[step] for step, answer in given)
        evil = foreign and all(answer == self.evil[step] for step, answer in given)
        if not good and not evil:
            return WRONG
        return RIGHT if len(given) == len(STEPS) - 1 else ERROR

    def _send(self, step: str, options: dict[str, str]) -> None:
        self._worker.send(do=step, path=str(self._stage.bundle), options=options)

    def _answers(self, steps: Sequence[str], options: dict[str, str]) -> list[str]:
        answers = []
        for step in steps:
            self._send(step, options)
            answers.append(self._worker.answer(self._limit))
        return answers

    def _undisturbed(self, **options: str) -> list[str]:
        answers = self._answers(STEPS, {**self._options, **options})
        if not all(map(_is_hash, answers[1:])):
            raise GateFailure("a bundle that nobody attacks", got=", ".join(answers), expected="answers")
        return answers


def _is_hash(answer: str) -> bool:
    return len(answer) == 64


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    tokenizers = _Tokenizers()
    for line in sys.stdin:
        try:
            answer = tokenizers.done(json.loads(line))
        except VqraeError as error:
            answer = type(error).__name__
        except Exception as error:  # every class is an outcome that the parent counts, none is dropped
            answer = f"other {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
