"""From a recipe and a folder of photographs to a trained tokenizer: runs the phases in order, each resumable.

A run folder holds `encoder/` (pre-training's result, a Hugging Face checkpoint), `stage1/` and `stage2/` (checkpoints),
and below `state/` each phase's log and the state it resumes from; `run.json` says which run it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from vqrae.checkpoint import from_pretrained, save_pretrained
from vqrae.encoder import Encoder
from vqrae.model import VQRAE
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.image_files import image_files
from vqrae.runtimes.preprocess import open_image
from vqrae.runtimes.staging import staged_file
from vqrae.training.config import PhaseConfig, Recipe
from vqrae.training.data.crops import CroppedPhotographs
from vqrae.training.loop import STATE_FILE, train
from vqrae.training.pretrain import Pretraining
from vqrae.training.stages import Stage1, Stage2, TrainingImages

PhaseName = Literal["pretrain", "stage1", "stage2"]

RUN_FILE = "run.json"
MAX_SCENE_PHOTOGRAPHS = 64
"""Photographs of the folder that are kept open as textures of the scenes."""


class TrainingRun:
    """One recipe trained on one folder into one run folder."""

    def __init__(self, recipe: Recipe, data: Path, folder: Path, *, encoder: str | None = None, seed: int = 0) -> None:
        """`encoder` names a pretrained one; without it the recipe's own pre-training provides it."""
        self.recipe = recipe
        self.paths = image_files(data)
        self.folder = folder
        self.encoder_source = encoder
        self.seed = seed

    def phases(self) -> list[PhaseName]:
        """What this run consists of: pre-training only where no encoder is given and the recipe has one."""
        pretrained = self.encoder_source is not None or self.recipe.pretrain is None
        return ["stage1", "stage2"] if pretrained else ["pretrain", "stage1", "stage2"]

    def images(self, config: PhaseConfig) -> TrainingImages:
        """The batches of stage 1 or 2."""
        crops = CroppedPhotographs(self.paths, self.recipe.model.image_size, config.color_jitter)
        return TrainingImages(crops, self._textures() if config.scene_fraction else [], config, self.seed)

    def run(self, phase: PhaseName) -> Path:
        """Run or resume one phase; returns the folder of its result, at once if that is there already.

        Raises:
            UsageError: the phase's input, an encoder or a stage-1 checkpoint, is not there; or the folder holds a run
                of another model, seed, encoder or data.
        """
        self._claim_folder()
        runners = {"pretrain": self._pretrain, "stage1": self._stage1, "stage2": self._stage2}
        result = self.folder / ("encoder" if phase == "pretrain" else phase)
        if not result.exists():
            runners[phase](result)
            (self._state(phase) / STATE_FILE).unlink()
        return result

    def _claim_folder(self) -> None:
        """Write down whose folder it is, or compare with what is written there."""
        described = {
            "model": self.recipe.model.model_dump(mode="json"),
            "seed": self.seed,
            "encoder": self.encoder_source,
            "photographs": {path.name: path.stat().st_size for path in self.paths},
        }
        path = self.folder / RUN_FILE
        if not path.exists():
            with staged_file(path) as staging:
                staging.write_text(json.dumps(described, indent=2) + "\n")
            return
        written = json.loads(path.read_text())
        differing = [name for name in described if described[name] != written.get(name)]
        if differing:
            remedy = "give what the run began with, or another output folder"
            raise UsageError(
                str(self.folder),
                got=f"another {' and '.join(differing)}",
                expected=f"those of {path.name}",
                remedy=remedy,
            )

    def _pretrain(self, result: Path) -> None:
        if self.recipe.pretrain is None:
            raise UsageError("pretrain", got="a recipe without it", expected="`--encoder`, a pretrained one")
        phase = Pretraining(self.recipe.model, self.recipe.pretrain, self._textures(), self.seed)
        train(phase, self._state("pretrain"), "pretrain")
        phase.finish(result)

    def _stage1(self, result: Path) -> None:
        encoder = self._encoder()
        torch.manual_seed(self.seed)
        model = VQRAE(self.recipe.model.model_copy(update={"encoder": encoder.config}), encoder)
        phase = Stage1(model, self.recipe.stage1, self.images(self.recipe.stage1))
        if not (self._state("stage1") / STATE_FILE).exists():
            phase.init_codebook(self.seed)
        train(phase, self._state("stage1"), "stage 1")
        save_pretrained(model, result)

    def _stage2(self, result: Path) -> None:
        stage1 = self.folder / "stage1"
        if not stage1.exists():
            raise UsageError(str(stage1), got="no stage-1 checkpoint", expected="one", remedy="run stage 1 first")
        phase = Stage2(from_pretrained(stage1), self.recipe.stage2, self.images(self.recipe.stage2))
        train(phase, self._state("stage2"), "stage 2")
        phase.refit_codebook(self.seed)
        save_pretrained(phase.module, result)

    def _encoder(self) -> Encoder:
        if self.encoder_source is not None:
            return Encoder.from_pretrained(self.encoder_source)
        pretrained = self.folder / "encoder"
        if not pretrained.exists():
            remedy = "run the pretrain phase, or give `--encoder`" if self.recipe.pretrain else "give `--encoder`"
            raise UsageError(str(pretrained), got="no pretrained encoder", expected="one", remedy=remedy)
        return Encoder.from_pretrained(str(pretrained))

    def _state(self, phase: PhaseName) -> Path:
        return self.folder / "state" / phase

    def _textures(self) -> Sequence[Image.Image]:
        return [open_image(path) for path in self.paths[:MAX_SCENE_PHOTOGRAPHS]]
