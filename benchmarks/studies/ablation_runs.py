"""One run of the ablations: train with the library's own phases, and measure.

Covered: what `vqrae train` and `vqrae eval` do with one checkpoint. Reconstruction is judged on crops of the held-out
photographs, the codebook on training data that was not trained on, semantics by the linear probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vqrae.benchmarks.studies.ablation_grid import AblationRun
from vqrae.benchmarks.studies.runner import Figures, Task
from vqrae.checkpoint import from_pretrained, save_pretrained
from vqrae.images.files import image_files
from vqrae.images.photographs import write_photographs
from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.model.layers import uint8_from_pixels
from vqrae.model.quantizers.config import SimVQConfig
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.preprocess import open_image
from vqrae.training.evaluation.evaluate import evaluate, exp_entropy
from vqrae.training.evaluation.image_stream import ImageStream
from vqrae.training.evaluation.probe import probe_accuracy
from vqrae.training.model_card import FIRST_BATCH
from vqrae.training.run import TrainingRun
from vqrae.training.stages import place_codes

CROP_SEED = 0
"""Names the held-out crops: all runs of all seeds are judged on the same ones."""


class Workplace:
    """The folder that runs work in: photographs, encoders, and unfinished training."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written yet."""
        self.folder = folder
        self.train, self.held_out = folder / "photographs" / "train", folder / "photographs" / "held-out"

    def prepare(self) -> None:
        """Write the photographs, if they are not there."""
        if not self.train.parent.exists():
            write_photographs(self.train.parent)

    def training(self, run: AblationRun) -> Path:
        """The run folder that training works in; only an encoder's is kept when it is finished."""
        return self.folder / ("encoders" if run.encoder_run is None else "training") / run.key

    def encoder(self, run: AblationRun) -> Path:
        """The pretrained encoder that a run starts from, or makes."""
        return self.training(run.encoder_run or run) / "encoder"


def tasks_of(runs: Sequence[AblationRun], folder: Path) -> list[Task]:
    """The runs for the runner, each after that of its encoder; `folder` is the workplace's."""
    place, tasks = Workplace(folder), []
    for run in runs:
        encoder, work = run.encoder_run, partial(perform, run, folder)
        needs, scratch = ((), None) if encoder is None else ((encoder.key,), place.training(run))
        makes = place.encoder(run) if encoder is None else None
        tasks.append(Task(run.name, work, run.key, needs, run.steps, makes, scratch))
    return tasks


def perform(run: AblationRun, folder: Path) -> Figures:
    """Train, or go on where it was stopped, and measure.

    Args:
        run: its encoder's run is finished.
        folder: of the workplace, prepared.

    Returns:
        Figures named as in `EvalReport`; also `probe_*`, `stage1_*` and `refitted_*`, where they apply.

    Raises:
        Terminated: SIGTERM came; the phase's state is saved.
        VqraeError: training or evaluation failed.
    """
    place = Workplace(folder)
    return _encoder_figures(run, place) if run.encoder_run is None else _tokenizer_figures(run, place)


def _encoder_figures(run: AblationRun, place: Workplace) -> Figures:
    training = TrainingRun(run.recipe, str(place.train), place.training(run), seed=run.seed)
    encoder = Encoder.from_pretrained(str(training.run("pretrain")))
    # The probe reads a tokenizer's features only, so any codebook does.
    quantizer = SimVQConfig(codebook_size=2, code_width=1)
    config = run.recipe.model.model_copy(update={"encoder": encoder.config, "quantizer": quantizer})
    return _probe_figures(VQRAE(config, encoder), run, place)


def _tokenizer_figures(run: AblationRun, place: Workplace) -> Figures:
    recipe, encoder = run.recipe, str(place.encoder(run))
    training = TrainingRun(recipe, str(place.train), place.training(run), encoder=encoder, seed=run.seed)
    if "stage1" not in run.phases:
        _begin_end_to_end(training, Encoder.from_pretrained(encoder))
    checkpoints = {phase: training.run(phase) for phase in run.phases}
    last = from_pretrained(checkpoints[run.phases[-1]])
    figures = _measured(last, run, training, place)
    if "stage2" not in run.phases:
        return figures
    figures |= _probe_figures(last, run, place)
    if "stage1" in checkpoints:
        first = _measured(from_pretrained(checkpoints["stage1"]), run, training, place)
        figures |= {f"stage1_{name}": value for name, value in first.items()}
    # Codes that k-means places anew are not the paper's, but the presets' for small scale: a figure beside the others.
    place_codes(last, training.images(recipe.stage2), recipe.stage2.steps, training.processes, run.seed)
    refitted = _measured(last, run, training, place)
    return figures | {f"refitted_{name}": value for name, value in refitted.items()}


def _begin_end_to_end(training: TrainingRun, encoder: Encoder) -> None:
    """Put the tokenizer that stage 1 would begin with where stage 2 looks for the one that it ended with."""
    start = training.folder / "stage1"
    if start.exists():
        return
    torch.manual_seed(training.seed)
    config = training.recipe.model.model_copy(update={"encoder": encoder.config})
    model = VQRAE(config, encoder)
    stage = training.recipe.stage2
    if config.quantizer.starts_among_features:
        place_codes(model, training.images(stage), stage.steps, training.processes, training.seed)
    save_pretrained(model, start)


def _measured(model: VQRAE, run: AblationRun, training: TrainingRun, place: Workplace) -> Figures:
    """Held-out reconstruction, codebook health on training data, rank and norms."""
    tokenizer, codes = ReferenceTokenizer(model), model.config.quantizer.codebook_size
    crops = ImageStream(place.held_out, model.size, crops=run.measuring.crops, seed=CROP_SEED)
    report = evaluate(tokenizer, codes, (chunk.images for chunk in crops), run.name, model=model)
    images = training.images(run.recipe.stage1)
    counts, batch = np.zeros(codes, np.int64), FIRST_BATCH
    while counts.sum() < run.measuring.tokens:
        indices, _ = tokenizer.encode(uint8_from_pixels(images.pixels(batch)).numpy())
        counts += np.bincount(indices.ravel(), minlength=codes)
        batch += 1
    return {
        **report.model_dump(include={"psnr_db", "ssim", "effective_rank", "feature_norm", "code_norm"}),
        "codebook_usage": float((counts > 0).mean()),
        "perplexity": exp_entropy(counts),
    }


def _probe_figures(model: VQRAE, run: AblationRun, place: Workplace) -> Figures:
    accuracy = probe_accuracy(
        ReferenceTokenizer(model),
        _photographs(place.train),
        _photographs(place.held_out),
        model.config.image_size,
        train_count=run.measuring.probe_train,
        test_count=run.measuring.probe_test,
    )
    return {f"probe_{name}": share for name, share in accuracy.items()}


def _photographs(folder: Path) -> list[Image.Image]:
    return [open_image(path) for path in image_files(folder)]
