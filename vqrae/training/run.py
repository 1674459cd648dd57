"""From a recipe and a folder of photographs to a trained tokenizer: runs the phases in order, each resumable.

A run folder holds `encoder/` (pre-training's result, a Hugging Face checkpoint), `stage1/` and `stage2/` (checkpoints),
and below `state/` each phase's log and the state it resumes from; `run.json` says which run it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from vqrae.checkpoint import from_pretrained, save_pretrained
from vqrae.config import VQRAEConfig
from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.staging import claimed_folder, make_folder
from vqrae.training.config import PhaseConfig, PhaseName, Recipe, StageConfig
from vqrae.training.data.batches import TrainingImages
from vqrae.training.data.scenes import Scenes, SceneSource
from vqrae.training.data.sources import open_images, textures
from vqrae.training.description import RUN_FILE, RunDescription, begin_phase, check_finished
from vqrae.training.loop import train
from vqrae.training.pretrain import Pretraining, write_encoder
from vqrae.training.processes import Processes
from vqrae.training.stages import Stage1, Stage2, place_codes
from vqrae.training.state import STATE_FILE

MAX_SCENE_PHOTOGRAPHS = 64
"""Photographs of the data that are kept open as textures of the scenes."""


class TrainingRun:
    """One recipe trained on some data into one run folder, by all processes together."""

    def __init__(
        self,
        recipe: Recipe,
        data: str,
        folder: Path,
        *,
        encoder: str | None = None,
        seed: int = 0,
        processes: Processes | None = None,
        scenes: SceneSource | None = None,
    ) -> None:
        """Open the data.

        Args:
            recipe: the model and its phases.
            data: as `open_images` takes it.
            folder: the run's.
            encoder: names a pretrained one; None leaves it to the recipe's pre-training.
            seed: names the weights' start and every batch.
            processes: those that train together.
            scenes: labelled scenes for pre-training, and for the share of the batches that is scenes; None draws them
                over the data's first photographs.
        """
        self.recipe = recipe
        self.processes = processes or Processes()
        self.source = open_images(data, self.processes.share)
        self.folder = folder
        self.encoder_source = encoder
        self.seed = seed
        self._own_scenes = scenes

    def phases(self) -> list[PhaseName]:
        """What this run consists of: pre-training only where no encoder is given and the recipe has one."""
        pretrained = self.encoder_source is not None or self.recipe.pretrain is None
        return ["stage1", "stage2"] if pretrained else ["pretrain", "stage1", "stage2"]

    def images(self, config: StageConfig) -> TrainingImages:
        """The batches of stage 1 or 2."""
        scenes = self._scenes(drawn=config.scene_fraction > 0)
        return TrainingImages(self.source, scenes, config, self.recipe.model.image_size, self.seed)

    def _scenes(self, *, drawn: bool) -> SceneSource:
        """The labelled scenes; their photographs are only opened where some are drawn."""
        if self._own_scenes is not None:
            return self._own_scenes
        photographs = textures(self.source, MAX_SCENE_PHOTOGRAPHS) if drawn else []
        return Scenes(photographs=photographs, size=self.recipe.model.image_size)

    def run(self, phase: PhaseName) -> Path:
        """Run or resume one phase; returns the folder of its result, at once if that is there already.

        Raises:
            UsageError: the phase's input, an encoder or a stage-1 checkpoint, is not there; the folder holds a run of
                another model, seed, encoder or data, or others are training in it; or the phase is finished, with
                other settings.
            CheckpointError: what the folder holds of the run is damaged.
        """
        with claimed_run(self.folder, self.processes):
            self._check_folder()
            self.processes.wait()
            runners = {"pretrain": self._pretrain, "stage1": self._stage1, "stage2": self._stage2}
            result = self._result(phase)
            if result.exists():
                check_finished(self._state(phase), phase, self._config(phase))
            else:
                self._begin(phase)
                runners[phase](result)
                self.processes.wait()
            if self.processes.first:
                (self._state(phase) / STATE_FILE).unlink(missing_ok=True)  # that of a run killed right here, too
            self.processes.wait()
        return result

    def finished(self, phase: PhaseName) -> bool:
        """Whether a phase's result is there."""
        return self._result(phase).exists()

    def _result(self, phase: PhaseName) -> Path:
        return self.folder / ("encoder" if phase == "pretrain" else phase)

    def _config(self, phase: PhaseName) -> PhaseConfig:
        config = {"pretrain": self.recipe.pretrain, "stage1": self.recipe.stage1, "stage2": self.recipe.stage2}[phase]
        if config is None:
            raise _no_pretraining()
        return config

    def _begin(self, phase: PhaseName) -> None:
        """Write down what a phase is trained with; what was begun before is compared when its state is loaded."""
        folder, config = self._state(phase), self._config(phase)
        if self.processes.first and not (folder / STATE_FILE).exists():
            make_folder(folder)
            begin_phase(folder, config)

    def _check_folder(self) -> None:
        """Write down whose folder it is, or compare with what is written there."""
        described = RunDescription.of(self.recipe.model, self.seed, self.encoder_source, self.source.contents)
        if (self.folder / RUN_FILE).exists():
            described.check(self.folder)
        elif self.processes.first:
            described.write(self.folder)

    def _pretrain(self, result: Path) -> None:
        _check_model(self.recipe.model)
        if self.recipe.pretrain is None:
            raise _no_pretraining()
        phase = Pretraining(self.recipe.model, self.recipe.pretrain, self._scenes(drawn=True), self.seed)
        state = train(phase, self._state("pretrain"), "pretrain", self.processes)
        if self.processes.first:
            encoder = Encoder(self.recipe.model.encoder)
            ours = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
            encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in ours.items()})
            write_encoder(encoder, result)

    def _stage1(self, result: Path) -> None:
        encoder = self._encoder()
        torch.manual_seed(self.seed)
        config = self.recipe.model.model_copy(update={"encoder": encoder.config})
        model = VQRAE(config, encoder)
        stage = self.recipe.stage1
        images = self.images(stage)
        if config.quantizer.starts_among_features and not (self._state("stage1") / STATE_FILE).exists():
            place_codes(model, images, stage.steps, self.processes, self.seed)
        phase = Stage1(model, stage, images, self.processes)
        state = train(phase, self._state("stage1"), "stage 1", self.processes)
        self._save(_tokenizer(config, state), result)

    def _stage2(self, result: Path) -> None:
        stage1 = self.folder / "stage1"
        if not stage1.exists():
            raise UsageError(str(stage1), got="no stage-1 checkpoint", expected="one", remedy="run stage 1 first")
        model = from_pretrained(stage1)
        stage = self.recipe.stage2
        if stage.refit_codebook and not model.quantizer.movable:
            got = f"true, with {model.config.quantizer.kind}, whose codes have their places by definition"
            raise UsageError("setting stage2.refit_codebook", got=got, expected="false")
        images = self.images(stage)
        torch.manual_seed(self.seed)
        phase = Stage2(model, stage, images, self.processes)
        trained = _tokenizer(model.config, train(phase, self._state("stage2"), "stage 2", self.processes))
        if stage.refit_codebook:
            place_codes(trained, images, stage.steps, self.processes, self.seed)
        self._save(trained, result)

    def _save(self, model: VQRAE, result: Path) -> None:
        if self.processes.first:
            save_pretrained(model, result)

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


@contextmanager
def claimed_run(folder: Path, processes: Processes) -> Iterator[None]:
    """A run's folder, for these processes alone until the block ends; the first of them holds its lock.

    Raises:
        UsageError: another run holds it.
        StorageError: the operating system refused to write.
    """
    with claimed_folder(folder, "state/*") if processes.first else nullcontext():
        yield


def _no_pretraining() -> UsageError:
    return UsageError("pretrain", got="a recipe without it", expected="`--encoder`, a pretrained one")


def _check_model(config: VQRAEConfig) -> None:
    """Refuse, before anything is trained, a network that transformers does not build or the decoder does not fit."""
    try:
        with torch.device("meta"):
            VQRAE(config)
    except (TypeError, ValueError, RuntimeError, StrictDataclassError) as error:
        expected = f"a {config.encoder.family} configuration"
        raise UsageError("setting model.encoder.network", got=str(error), expected=expected) from error


def _tokenizer(config: VQRAEConfig, state: dict[str, Tensor]) -> VQRAE:
    """A whole model of trained weights, whatever was sharded or averaged on the way."""
    model = VQRAE(config)
    model.load_state_dict(state)
    return model
