"""What a run folder says of itself: what the run began with (`run.json`), and what each phase was trained with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from vqrae.config import VQRAEConfig
from vqrae.images.report import some
from vqrae.runtimes.errors import CheckpointError, UsageError
from vqrae.runtimes.json_text import Record, read_model, read_object, validated
from vqrae.runtimes.staging import write_output
from vqrae.training.config import PhaseConfig, as_read

RUN_FILE, PHASE_FILE = "run.json", "phase.json"
WITHOUT_EFFECT = {"save_every", "activation_checkpointing", "compile"}
"""Settings of a phase that its result does not depend on, but for rounding."""
_REMEDY = "give what the run began with, or another output folder"


class RunDescription(Record):
    """`run.json`."""

    model: VQRAEConfig
    seed: int
    encoder: str | None = Field(max_length=4096)
    """A hub's name, or a path, however it was spelled."""
    data: dict[str, int]
    """Each file or shard -> bytes, or what else tells it from another."""

    @classmethod
    def of(cls, model: VQRAEConfig, seed: int, encoder: str | None, data: Mapping[str, int]) -> Self:
        """Of a run that begins."""
        return cls(model=model, seed=seed, encoder=_place(encoder), data=dict(data))

    def write(self, folder: Path) -> None:
        """Write it down; the run's folder is claimed."""
        write_output(folder / RUN_FILE, json.dumps(self.model_dump(mode="json"), indent=2) + "\n", lock=False)

    def check(self, folder: Path) -> None:
        """Compare with what is written there.

        Raises:
            CheckpointError: that is damaged.
            UsageError: it is of another run; names each difference.
        """
        path = folder / RUN_FILE
        try:
            written = read_model(path, RunDescription, CheckpointError, "what the run began with")
        except CheckpointError as error:
            error.remedy = "put it back, or choose another output folder"
            raise
        written = written.model_copy(update={"encoder": _place(written.encoder)})
        told = list(_differences(written.model_dump(mode="json"), self.model_dump(mode="json")))
        if told:
            got, expected = (some([pair[side] for pair in told]) for side in (0, 1))
            raise UsageError(str(folder), got=got, expected=expected, remedy=_REMEDY)


def begin_phase(folder: Path, config: PhaseConfig) -> None:
    """Write down what a phase is trained with, in its state's folder, before its first step."""
    write_output(folder / PHASE_FILE, json.dumps(config.model_dump(mode="json"), indent=2) + "\n", lock=False)


def check_finished(folder: Path, phase: str, config: PhaseConfig) -> None:
    """Compare settings with those that a finished phase was trained with; earlier versions wrote none down.

    Raises:
        CheckpointError: what is written is damaged.
        UsageError: a setting is another one, which would do nothing.
    """
    path = folder / PHASE_FILE
    if not path.is_file():
        return
    kind = type(config)
    saved = as_read(kind, read_object(path, CheckpointError, "a phase's settings"))
    written = validated(str(path), saved, kind, CheckpointError)
    before, now = (it.model_dump(mode="json", exclude=WITHOUT_EFFECT) for it in (written, config))
    told = list(_differences(before, now, f"{phase}."))
    if told:
        remedy = "give the same, or another output folder; delete its result to train it again"
        got, expected = (some([pair[side] for pair in told]) for side in (0, 1))
        raise UsageError(f"{phase}, which is finished", got=got, expected=expected, remedy=remedy)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """For each field that differs, what it is now, and what it was."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} {_word(new)}", f"{prefix}{name} {_word(old)}"


def _word(value: object) -> str:
    return "(none)" if value is None else str(value)


def _place(source: str | None) -> str | None:
    """A path as one that means the same from any folder; other names as they are."""
    return source if source is None or not Path(source).exists() else str(Path(source).resolve())
