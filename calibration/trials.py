"""Trials: which layers were INT8, what that cost, and how fast it was. Kept in a file, so that a search goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from vqrae.runtimes.errors import DataError
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.staging import write_output

GraphName = Literal["encode", "decode"]
GRAPHS: tuple[GraphName, ...] = ("encode", "decode")


class Trial(Record):
    """One graph with some layers at INT8, the rest in FP32, on images that it was not calibrated on."""

    graph: GraphName
    int8: tuple[str, ...]
    """Layers, sorted."""
    damage: float
    """Of `encode`, excess distortion; of `decode`, mean squared error to the reference's images, relative to 255²."""
    token_agreement: float
    source_psnr_drop_db: float
    decode_psnr_db: float
    relative_time: float
    """Median over rounds of its latency at batch 1 divided by FP32's."""
    relative_time_low: float
    """Lower end of the median's 95 % interval."""
    relative_time_high: float
    """Upper end of it."""
    float_ms: float
    """FP32's median latency in the same rounds."""

    @property
    def ms_won(self) -> float:
        """Milliseconds that INT8 saves; negative where it costs some."""
        return (1 - self.relative_time) * self.float_ms


Try = Callable[[Collection[str]], Trial]
"""Makes the trial of a set of layers."""


class TrialLog:
    """Trials in a file, one line of JSON each, after a line that says what they were made with."""

    def __init__(self, path: Path, made_with: Mapping[str, str]) -> None:
        """Read the file, if there is one, or begin it.

        Raises:
            DataError: it was made with something else (says what differs), or is damaged.
        """
        self._path = path
        self._trials: dict[tuple[str, tuple[str, ...]], Trial] = {}
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines()
            self._check(lines[0] if lines else "", made_with)
            for trial in _read(path, lines[1:]):
                self._trials[trial.graph, trial.int8] = trial
            if not text.endswith("\n") or len(lines) - 1 > len(self._trials):  # what is appended begins a line
                kept = [lines[0], *(trial.model_dump_json() for trial in self)]
                write_output(path, "".join(f"{line}\n" for line in kept))
        else:
            write_output(path, json.dumps(dict(made_with)) + "\n")

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def keeping(self, graph: GraphName, make: Try) -> Try:
        """`make`, but what was tried before is not tried again, and what is new is written down."""

        def trial(layers: Collection[str]) -> Trial:
            key = graph, tuple(sorted(layers))
            if key not in self._trials:
                self._trials[key] = make(layers)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(self._trials[key].model_dump_json() + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            return self._trials[key]

        return trial

    def _check(self, line: str, made_with: Mapping[str, str]) -> None:
        try:
            before = dict(json.loads(line))
        except ValueError as error:
            raise DataError(str(self._path), got="no heading", expected="a log of trials") from error
        for name in dict.fromkeys([*made_with, *before]):
            if before.get(name) != made_with.get(name):
                raise DataError(
                    f"{self._path} {name}",
                    got=str(before.get(name)),
                    expected=str(made_with.get(name)),
                    remedy="ask for the same again, or choose another folder",
                )


def _read(path: Path, lines: list[str]) -> Iterator[Trial]:
    """The trials; a last line that a killed process left unfinished is dropped."""
    for number, line in enumerate(lines, start=2):
        try:
            yield Trial.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines) + 1:
                return
            raise DataError(f"{path} line {number}", got="no trial", expected="one line of JSON each") from error
