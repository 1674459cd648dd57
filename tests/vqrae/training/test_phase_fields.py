"""A phase's configuration has the fields that the phase reads, and no others: found by running every phase."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from phases import phase_config, pretraining, stage1, stage2, tiny_recipe
from pydantic import BaseModel

from vqrae.downstream.lessons import LessonConfig
from vqrae.runtimes.errors import UsageError
from vqrae.training.config import (
    PHASES,
    PhaseConfig,
    PhaseName,
    PhasePart,
    PretrainWeights,
    Recipe,
    Stage1Config,
    Stage2Config,
    StageConfig,
    recipe,
)
from vqrae.training.description import PHASE_FILE
from vqrae.training.loop import train
from vqrae.training.phase import Phase
from vqrae.training.run import TrainingRun
from vqrae.training.stages import PERCEPTUAL

ALL: dict[str, Any] = {"perceptual": "teacher", "discriminator_start": 0, "ema_decay": 0.9, "steps": 2, "warmup": 1}
MAKE: dict[PhaseName, Callable[..., Phase]] = {"pretrain": pretraining, "stage1": stage1, "stage2": stage2}


def fields(kind: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names, such as `weights.dense`."""
    found = set()
    for name, field in kind.model_fields.items():
        inner = field.annotation
        is_part = isinstance(inner, type) and issubclass(inner, PhasePart)
        found |= fields(inner, f"{prefix}{name}.") | {name} if is_part else {f"{prefix}{name}"}
    return found


EVERY = sorted(set().union(*map(fields, PHASES.values())))
UNREAD = [(phase, field) for phase, kind in PHASES.items() for field in EVERY if field not in fields(kind)]


def readers(field: str) -> str:
    named = [phase for phase, kind in PHASES.items() if field in fields(kind)]
    return f"{' and '.join(named)} read{'s' if len(named) == 1 else ''} it"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What is read of phases' configurations from now on, dotted."""
    noted: set[str] = set()

    def noting(self: PhasePart, name: str) -> Any:
        if name in type(self).model_fields:
            noted.add(".".join((*type(self).inside, name)))
        return BaseModel.__getattribute__(self, name)

    monkeypatch.setattr(PhasePart, "__getattribute__", noting, raising=False)
    return noted


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_reads_what_it_has(folder: Path, tmp_path: Path, read: set[str], phase: PhaseName) -> None:
    has = fields(PHASES[phase])
    values = {name: value for name, value in ALL.items() if name in has}
    train(MAKE[phase](folder, **values), tmp_path / "loop", "all")
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run")  # what is not the loop's
    for earlier in run.phases()[: run.phases().index(phase)]:
        run.run(earlier)
    read_before = set(read)
    run.run(phase)
    assert read >= has, "it has a field that nothing reads"
    assert read_before | has >= read, "it reads what it has not"


def test_the_recipe_has_a_type_for_each_phase() -> None:
    for phase, kind in PHASES.items():
        assert Recipe.model_fields[phase].annotation in (kind, kind | None)
    assert fields(LessonConfig) == fields(PhaseConfig), "a reader and a painter read what every phase does"
    assert set().union(*(fields(kind) for kind in PHASES.values())) == set(EVERY)


def test_every_perceptual_loss_that_can_be_asked_for_is_there() -> None:
    assert get_args(StageConfig.model_fields["perceptual"].annotation) == tuple(PERCEPTUAL)


@pytest.mark.parametrize(("phase", "field"), UNREAD)
def test_a_setting_that_a_phase_does_not_read_is_refused(phase: str, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe("tiny").changed({f"{phase}.{field}": "1"})
    assert str(caught.value) == (
        f"setting {phase}.{field}: got 1; expected one that this phase reads; {readers(field)}"
    )


@pytest.mark.parametrize(("phase", "field"), UNREAD)
def test_python_and_files_refuse_it_too(phase: PhaseName, field: str) -> None:
    values = json.loads(tiny_recipe().model_dump_json())
    *inside, last = (phase, *field.split("."))
    part = values
    for name in inside:
        part = part[name]
    part[last] = 1
    for refused in (lambda: Recipe.model_validate(values), lambda: PHASES[phase](**values[phase])):
        with pytest.raises(UsageError, match=rf" field {last}: got 1; .*; {readers(field)}$"):
            refused()


def test_a_part_of_another_phase_is_no_part_of_this_one() -> None:
    stage = phase_config(Stage2Config)
    with pytest.raises(ValueError, match="Stage1Config"):
        Recipe(model=tiny_recipe().model, stage1=stage, stage2=stage)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Stage1Weights"):
        phase_config(Stage1Config, weights=PretrainWeights())


def test_a_run_of_an_earlier_version_goes_on(folder: Path, tmp_path: Path) -> None:
    """It wrote down all fields of all phases, whatever they were."""
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path)
    for phase in run.phases():
        run.run(phase)
    for phase in run.phases():
        path = tmp_path / "state" / phase / PHASE_FILE
        written = json.loads(path.read_text())
        written |= {"refit_codebook": False, "perceptual": "none", "encoder_learning_rate": 0.5} | written
        written["weights"] = {"distillation": 5, "dense": 1.0, "lecam": 0.001} | written["weights"]
        path.write_text(json.dumps(written))
        run.run(phase)
    more = tiny_recipe().changed({"stage1.weights.pixel": "3"})
    with pytest.raises(UsageError, match=r"finished: got stage1\.weights\.pixel 3\.0; expected .*pixel 1"):
        TrainingRun(more, str(folder), tmp_path).run("stage1")
