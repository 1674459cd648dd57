"""What is varied in the ablations, and at which size: the paper's tables (§4) with a tokenizer that trains in a minute.

Covered: width, size and start of the codebook, and the three ways to spend the same number of steps. Everything else is
one tokenizer and one recipe. A run is named by a hash of all that it depends on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Literal, NamedTuple

from pydantic import Field

from vqrae.benchmarks.studies.runner import Figures, Result
from vqrae.benchmarks.studies.study import Spread
from vqrae.model.config import DecoderConfig, EncoderConfig, VQRAEConfig
from vqrae.model.quantizers.config import QuantizerConfig, SimVQConfig
from vqrae.runtimes.json_text import Record
from vqrae.training.config import (
    PhaseConfig,
    PhaseName,
    PretrainConfig,
    PretrainWeights,
    Recipe,
    Stage1Config,
    Stage2Config,
    Stage2Weights,
)

Experiment = Literal["dimension", "size", "init", "strategy"]
EXPERIMENTS: tuple[Experiment, ...] = ("dimension", "size", "init", "strategy")
Init = Literal["normal", "features"]
INITS: tuple[Init, ...] = ("normal", "features")

UNDISTILLED, DISTILLED, TWO_STAGE = "end-to-end, no distillation", "end-to-end, distilled", "two stages, distilled"
STRATEGIES = (UNDISTILLED, DISTILLED, TWO_STAGE)


class Measuring(Record):
    """How much each tokenizer is judged on."""

    crops: int = Field(96, gt=0)
    """Crops of the held-out photographs that are reconstructed."""
    tokens: int = Field(65_536, gt=0)
    """Tokens of training data, at least, that usage and perplexity are counted on: 16 for each code of 4096."""
    probe_train: int = Field(600, gt=0)
    """Scenes that the linear probe learns on."""
    probe_test: int = Field(300, gt=0)
    """Scenes that it is judged on."""


class AblationRun(Record):
    """One tokenizer, or one encoder, trained from one seed."""

    phases: tuple[PhaseName, ...]
    """In order. `stage2` without `stage1` is end-to-end training: everything learns from the first step on."""
    recipe: Recipe
    seed: int
    """Names the pre-training, the initial weights and every batch."""
    measuring: Measuring

    @property
    def key(self) -> str:
        """A hash of all of the above."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def steps(self) -> int:
        """Optimizer steps of all phases."""
        phases = (getattr(self.recipe, name) for name in self.phases)
        return sum(phase.steps for phase in phases)

    @property
    def name(self) -> str:
        """For the progress display."""
        quantizer = self.recipe.model.quantizer
        init = "features" if quantizer.starts_among_features else "normal"
        if self.phases == ("pretrain",):
            return f"encoder, seed {self.seed}"
        undistilled = "stage2" in self.phases and not self.recipe.stage2.weights.distillation
        phases = "+".join(self.phases) + (" undistilled" if undistilled else "")
        return f"{phases}, {quantizer.codebook_size}×{quantizer.code_width} {init}, seed {self.seed}"

    @property
    def encoder_run(self) -> AblationRun | None:
        """The run that gives the encoder which this one starts from."""
        return None if self.phases == ("pretrain",) else self.model_copy(update=self._pretraining())

    def _pretraining(self) -> dict[str, object]:
        # The codebook is not part of it: all runs of a seed share one encoder.
        model = self.recipe.model.model_copy(update={"quantizer": SimVQConfig()})
        pretrain = self.recipe.pretrain
        assert pretrain is not None, "every scale has it"  # noqa: S101
        shared = pretrain.model_dump(include=set(PhaseConfig.model_fields))  # the stages are not part of it either
        stages = {"stage1": Stage1Config(**shared), "stage2": Stage2Config(**shared)}
        return {"phases": ("pretrain",), "recipe": Recipe(model=model, pretrain=pretrain, **stages)}


class Cell(NamedTuple):
    """A run's place in a table."""

    experiment: Experiment
    row: tuple[str, ...]
    """Code width or codebook size, and the init; or the strategy."""
    run: AblationRun


class Scale(Record):
    """Sizes, steps and what is compared. `full_scale` is what the documentation shows."""

    model: VQRAEConfig
    """The tokenizer, with the codebook that the others are varied from."""
    widths: tuple[int, ...]
    """Code widths E."""
    sizes: tuple[int, ...]
    """Codebook sizes K."""
    init_widths: tuple[int, ...]
    """Code widths of the table that compares the inits in detail; among `widths`."""
    seeds: tuple[int, ...]
    pretrain: PretrainConfig
    stage1: Stage1Config
    stage2: Stage2Config
    end_to_end: Stage2Config
    """As many steps as both stages together."""
    measuring: Measuring = Measuring()

    def cells(self) -> list[Cell]:
        """Every row of every table, once for each seed; tables share runs."""
        return list(self._cells())

    def _cells(self) -> Iterator[Cell]:
        reference = self.model.quantizer
        for width, init, seed in product(self.widths, INITS, self.seeds):
            run = self._codebook_run(reference.codebook_size, width, init, seed)
            yield Cell("dimension", (str(width), init), run)
            if width in self.init_widths:
                yield Cell("init", (str(width), init), run)
        for size, init, seed in product(self.sizes, INITS, self.seeds):
            yield Cell("size", (str(size), init), self._codebook_run(size, reference.code_width, init, seed))
        for strategy, seed in product(STRATEGIES, self.seeds):
            yield Cell("strategy", (strategy,), self._strategy_run(strategy, seed))

    def _codebook_run(self, size: int, width: int, init: Init, seed: int) -> AblationRun:
        quantizer = self.model.quantizer.model_copy(update={"codebook_size": size, "code_width": width, "init": init})
        return self._run(("stage1",), quantizer, self.stage2, seed)

    def _strategy_run(self, strategy: str, seed: int) -> AblationRun:
        if strategy == TWO_STAGE:
            return self._run(("stage1", "stage2"), self.model.quantizer, self.stage2, seed)
        weights = Stage2Weights(distillation=1 if strategy == DISTILLED else 0)
        end_to_end = self.end_to_end.model_copy(update={"weights": weights})
        return self._run(("stage2",), self.model.quantizer, end_to_end, seed)

    def _run(
        self, phases: tuple[PhaseName, ...], quantizer: QuantizerConfig, stage2: Stage2Config, seed: int
    ) -> AblationRun:
        model = self.model.model_copy(update={"quantizer": quantizer})
        recipe = Recipe(model=model, pretrain=self.pretrain, stage1=self.stage1, stage2=stage2)
        return AblationRun(phases=phases, recipe=recipe, seed=seed, measuring=self.measuring)


def runs_of(cells: list[Cell]) -> list[AblationRun]:
    """The runs behind some rows, each once: encoders first, then the long ones, so that the workers end together."""
    runs = {cell.run.key: cell.run for cell in cells}
    encoders = {run.key: run for run in (cell.run.encoder_run for cell in cells) if run is not None}
    return [*encoders.values(), *sorted(runs.values(), key=lambda run: -run.steps)]


WIDTH, PATCH, IMAGE_SIZE = 128, 4, 64
STAGE1_STEPS, STAGE2_STEPS = 400, 400


def full_scale() -> Scale:
    """About an hour of one core: 64 px, 16×16 tokens, features 128 wide; codes from 1/32 to 2 times that wide.

    Rates are the tiny preset's, but that stage 2 begins with the rate that stage 1 ends with, as in the paper.
    """
    shared = {"batch_size": 4, "scene_fraction": 0.25, "color_jitter": 0.7, "save_every": 100}
    encoder_rates = {"encoder_learning_rate": 2e-4, "encoder_end_factor": 0.02}
    return Scale(
        model=_small_tokenizer(),
        widths=(4, 16, 64, 128, 192, 256),
        sizes=(256, 1024, 4096),
        init_widths=(16, 192),
        seeds=(0, 1, 2),
        pretrain=PretrainConfig(
            steps=1000,
            batch_size=4,
            learning_rate=1e-3,
            encoder_learning_rate=1e-3,
            end_factor=0.02,
            warmup=100,
            weights=PretrainWeights(pixel=10),
        ),
        stage1=Stage1Config(steps=STAGE1_STEPS, learning_rate=1e-3, end_factor=0.5, warmup=40, **shared),
        stage2=Stage2Config(
            steps=STAGE2_STEPS, learning_rate=5e-4, end_factor=0.04, warmup=20, **encoder_rates, **shared
        ),
        end_to_end=Stage2Config(
            steps=STAGE1_STEPS + STAGE2_STEPS,
            learning_rate=1e-3,
            end_factor=0.02,
            warmup=40,
            **encoder_rates,
            **shared,
        ),
    )


def _small_tokenizer() -> VQRAEConfig:
    network = {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "hidden_size": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 4 * WIDTH,
        "vision_use_head": False,
    }
    return VQRAEConfig(
        name="ablation",
        image_size=IMAGE_SIZE,
        encoder=EncoderConfig(family="siglip_vision_model", network=network),
        quantizer=SimVQConfig(codebook_size=1024, code_width=192, init="features"),
        decoder=DecoderConfig(width=WIDTH, depth=3, heads=2, mlp_width=4 * WIDTH, patch_size=PATCH),
    )


class Findings:
    """What the finished runs say."""

    def __init__(self, scale: Scale, results: Mapping[str, Result]) -> None:
        """`results` by the run's key; some may be missing."""
        self.scale = scale
        self.cells = scale.cells()
        self.results = results

    def rows(self, experiment: Experiment) -> list[tuple[str, ...]]:
        """The rows of a table, in order."""
        return list(dict.fromkeys(cell.row for cell in self._of(experiment)))

    def values(self, experiment: Experiment, row: tuple[str, ...], figure: str) -> list[float]:
        """One value for each seed whose run is finished and has the figure."""
        return [figures[figure] for figures in self._figures(experiment, row) if figure in figures]

    def spread(self, experiment: Experiment, row: tuple[str, ...], figure: str) -> Spread | None:
        """Over the seeds."""
        return Spread.of(self.values(experiment, row, figure))

    def change(self, experiment: Experiment, row: tuple[str, ...], before: str, after: str) -> Spread | None:
        """Of the difference between two figures of the same run."""
        return Spread.of([f[after] - f[before] for f in self._figures(experiment, row) if before in f and after in f])

    def encoder(self, figure: str) -> Spread | None:
        """Of the pretrained encoders that the runs start from."""
        runs = {run.key for run in (cell.run.encoder_run for cell in self.cells) if run is not None}
        return Spread.of([self.results[key].figures[figure] for key in sorted(runs) if key in self.results])

    def _of(self, experiment: Experiment) -> list[Cell]:
        return [cell for cell in self.cells if cell.experiment == experiment]

    def _figures(self, experiment: Experiment, row: tuple[str, ...]) -> list[Figures]:
        keys = [cell.run.key for cell in self._of(experiment) if cell.row == row]
        return [self.results[key].figures for key in keys if key in self.results]
