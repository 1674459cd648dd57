"""Measure a finished run of a recipe with scenes, and write the model card with the checkpoint.

    python -m vqrae.training.model_card RUN --photographs FOLDER -o assets/vqrae-tiny

`FOLDER` is what `vqrae photographs` wrote, RUN what `vqrae train` did with its `train/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vqrae import __version__
from vqrae.checkpoint import from_pretrained
from vqrae.images.files import image_files
from vqrae.model.layers import uint8_from_pixels
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.errors import run_as_program
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.preprocess import open_image, prepare
from vqrae.runtimes.staging import staged_folder
from vqrae.training.config import Recipe, recipe
from vqrae.training.data.batches import TrainingImages
from vqrae.training.data.scenes import ATTRIBUTES
from vqrae.training.description import RUN_FILE
from vqrae.training.evaluation.evaluate import evaluate, exp_entropy
from vqrae.training.evaluation.probe import TEST_COUNT, TRAIN_COUNT, probe_accuracy
from vqrae.training.log import LOG_FILE
from vqrae.training.run import TrainingRun

TRAIN_BATCHES = 384
"""Batches of stage 2's training data on which the codebook's usage is counted."""
FIRST_BATCH = 1_000_000
"""Names the first of them: past any step that was trained on."""


def measure_stage(checkpoint: Path, held_out: Path, train: Path, images: TrainingImages) -> dict[str, Any]:
    """Reconstruction of the held-out photographs, codebook health on training batches, linear probe."""
    model = from_pretrained(checkpoint)
    tokenizer, size, codes = ReferenceTokenizer(model), model.config.image_size, model.config.quantizer.codebook_size
    photographs = {path.stem: prepare(path, size, size)[None] for path in image_files(held_out)}
    each = {name: evaluate(tokenizer, codes, image, name) for name, image in photographs.items()}
    together = evaluate(tokenizer, codes, np.concatenate(list(photographs.values())), checkpoint.name, model=model)
    counts = np.zeros(codes, np.int64)
    for step in range(TRAIN_BATCHES):
        batch = uint8_from_pixels(images.pixels(FIRST_BATCH + step)).numpy()
        counts += np.bincount(tokenizer.encode(batch)[0].ravel(), minlength=codes)
    train_photographs, held_out_photographs = (
        [open_image(path) for path in image_files(folder)] for folder in (train, held_out)
    )
    return {
        **together.model_dump(include={"psnr_db", "ssim", "effective_rank", "feature_norm", "code_norm"}),
        "psnr_db_each": {name: report.psnr_db for name, report in each.items()},
        "tokens_counted": int(counts.sum()),
        "codebook_usage": float((counts > 0).mean()),
        "perplexity": exp_entropy(counts),
        "probe": probe_accuracy(tokenizer, train_photographs, held_out_photographs, size),
    }


def training_minutes(run: Path) -> dict[str, float]:
    """Wall time of each phase, from the last line of its log."""
    logs = {folder.name: folder / LOG_FILE for folder in sorted((run / "state").iterdir())}
    return {name: json.loads(log.read_text().splitlines()[-1])["seconds"] / 60 for name, log in logs.items()}


def write_model_card(run: Path, photographs: Path, preset: str, output: Path) -> None:
    """Copy the run's stage-2 checkpoint to `output`, with `figures.json` and a `README.md` made from it."""
    chosen = recipe(preset)
    train, held_out = photographs / "train", photographs / "held-out"
    images = TrainingRun(chosen, str(train), run).images(chosen.stage2)
    figures = {
        "preset": preset,
        "seed": json.loads((run / RUN_FILE).read_text())["seed"],
        "photographs": len(image_files(train)),
        "machine": str(this_machine()),
        "versions": {
            "vqrae": __version__,
            **{name: version(name) for name in ("torch", "transformers", "scikit-image", "scikit-learn")},
        },
        "minutes": training_minutes(run),
        **{stage: measure_stage(run / stage, held_out, train, images) for stage in ("stage1", "stage2")},
    }
    with staged_folder(output, overwrite=True) as staging:
        for file in (run / "stage2").iterdir():
            shutil.copy2(file, staging / file.name)
        (staging / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
        (staging / "README.md").write_text(card_text(chosen, figures))


def card_text(chosen: Recipe, figures: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    model = chosen.model
    h, w = model.grid
    return f"""# {model.name}

A VQRAE image tokenizer small enough to train on two cores: {model.image_size}×{model.image_size} RGB, {h}×{w} tokens of
{model.quantizer.codebook_size} codes {model.quantizer.code_width} wide, features {model.feature_width} wide. It exists
to show and test the toolkit on real photographs; it was trained on {figures["photographs"]} of them, and is no
general-purpose tokenizer.

{_figures_text(figures)}

{_data_text(chosen, figures)}

## Commands

```
vqrae photographs photographs
vqrae train {figures["preset"]} --data photographs/train -o runs/{figures["preset"]}
python -m vqrae.training.model_card runs/{figures["preset"]} --photographs photographs -o assets/{model.name}
```

Apache-2.0, like the project. Limits: faces, text and fine texture; anything unlike the photographs it was trained on.
Of the semantics, colors and positions are read well, shapes hardly.
"""


def _figures_text(figures: Mapping[str, Any]) -> str:
    first, second = figures["stage1"], figures["stage2"]
    rows = "\n".join(f"| {name} | {a} | {b} |" for name, a, b in _compared(first, second))
    chances = ", ".join(f"{1 / classes:.1%} for {name}" for name, classes in ATTRIBUTES.items())
    each = ", ".join(f"{name} {psnr:.2f} dB" for name, psnr in second["psnr_db_each"].items())
    return f"""## Figures

| | stage 1 | stage 2 |
|-|-:|-:|
{rows}

Held-out photographs after stage 2: {each}; whole, after the toolkit's resize rule, never trained on.
Usage and perplexity are counted on {second["tokens_counted"]} tokens of stage 2's training data. The probe is a linear
classifier on the mean of the continuous features, trained on {TRAIN_COUNT} scenes over the training photographs and
tested on {TEST_COUNT} over the held-out ones; chance is {chances}. Stage 1 freezes the encoder, so its column is also
the pretrained encoder's."""


def _data_text(chosen: Recipe, figures: Mapping[str, Any]) -> str:
    phases = {"pretrain": chosen.pretrain, "stage1": chosen.stage1, "stage2": chosen.stage2}
    steps = "\n".join(
        f"| {name} | {phase.steps} | {phase.batch_size} | {figures['minutes'][name]:.0f} |"
        for name, phase in phases.items()
        if phase is not None
    )
    return f"""## Data

Photographs inside scikit-image and scikit-learn, split by photograph (`vqrae photographs`), and procedural scenes over
them. The encoder was first trained on the scenes' labels (shape, color, position, count, and the shape of each patch),
with a linear reconstruction of the pixels beside; then came stage 1 and stage 2, and last the codes were placed by
k-means once more.

| phase | steps | batch | minutes |
|-|-:|-:|-:|
{steps}

Seed {figures["seed"]}; trained and measured on {figures["machine"]}."""


def _compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the figures' table: name, stage 1, stage 2."""
    figures: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("held-out PSNR", lambda stage: f"{stage['psnr_db']:.2f} dB"),
        ("held-out SSIM", lambda stage: f"{stage['ssim']:.3f}"),
        ("codebook usage", lambda stage: f"{stage['codebook_usage']:.1%}"),
        ("codebook perplexity", lambda stage: f"{stage['perplexity']:.0f}"),
        ("effective rank of the codes", lambda stage: f"{stage['effective_rank']:.0f}"),
    ]
    rows = [(name, written(first), written(second)) for name, written in figures]
    probes = [(f"probe, {name}", first["probe"][name], second["probe"][name]) for name in first["probe"]]
    return rows + [(name, f"{before:.1%}", f"{after:.1%}") for name, before, after in probes]


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m vqrae.training.model_card", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="what `vqrae train` wrote")
    parser.add_argument("--photographs", type=Path, required=True, help="what `vqrae photographs` wrote")
    parser.add_argument("--preset", default="tiny", help="the recipe of the run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the shipped checkpoint; replaced")
    options = parser.parse_args()
    write_model_card(options.run, options.photographs, options.preset, options.output)


if __name__ == "__main__":
    run_as_program(main)
