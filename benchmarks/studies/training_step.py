"""Real training steps of a preset at full size, on this machine: time, images a second, share of a peak, peak memory.

    python -m vqrae.benchmarks.studies.training_step siglip2-so400m-256 stage1 --batch 1 --steps 1
    python -m vqrae.benchmarks.studies.training_step base stage2 --batch 64 --peak-tflops 989     # on a GPU

Random weights, the photographs of `vqrae photographs`, one device. FLOPs are those that `vqrae train --dry-run` counts.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from vqrae.benchmarks.measure.footprint import peak_rss_bytes
from vqrae.benchmarks.studies.study import StudyParser
from vqrae.images.photographs import write_photographs
from vqrae.model import VQRAE
from vqrae.runtimes.errors import run_as_program
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.machine import this_machine
from vqrae.training.config import StageConfig, recipe
from vqrae.training.cost import plan
from vqrae.training.data.batches import TrainingImages
from vqrae.training.data.scenes import Scenes
from vqrae.training.data.sources import open_images, textures
from vqrae.training.learner import Learner
from vqrae.training.processes import Processes
from vqrae.training.stages import Stage1, Stage2

STAGES = {"stage1": Stage1, "stage2": Stage2}


class StepFigures(Record):
    """What the steps took."""

    preset: str
    stage: str
    batch_size: int
    compiled: bool
    device: str
    steps: int
    """Steps timed, after one that was not."""
    seconds: float
    """Of a step, the median; the first step's where there is no other."""
    images_per_second: float
    peak_gb: float
    """Most memory of the device, in 10⁹ bytes: allocated by torch on a GPU, resident on a CPU."""
    achieved_tflops: float
    utilization: float | None
    """Share of the peak that was given: model FLOPs utilization."""
    terms: dict[str, float]
    """The last step's."""


def measure(preset: str, stage: str, config: StageConfig, steps: int, peak_tflops: float | None) -> StepFigures:
    """Build the stage, take one step, and then time `steps - 1` more, or that one if it is all."""
    processes = Processes()
    chosen = recipe(preset)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="vqrae-photographs-") as folder:
        write_photographs(Path(folder) / "photographs")
        source = open_images(str(Path(folder) / "photographs" / "train"))
        photographs = textures(source, 1) if config.scene_fraction else []
        scenes = Scenes(photographs=photographs, size=chosen.model.image_size)
        images = TrainingImages(source, scenes, config, chosen.model.image_size, seed=0)
        learner = Learner(STAGES[stage](VQRAE(chosen.model), config, images, processes), processes)
        seconds = []
        for step in range(steps):
            began = time.perf_counter()
            terms = learner.step(step)  # ends with the terms' values, so the device is done
            seconds.append(time.perf_counter() - began)
    timed = sorted(seconds[1:] or seconds)
    median = timed[len(timed) // 2]
    achieved = config.batch_size * _flops_per_image(preset, stage, config) / median / 1e12
    return StepFigures(
        preset=preset,
        stage=stage,
        batch_size=config.batch_size,
        compiled=config.compile,
        device=torch.cuda.get_device_name() if processes.device.type == "cuda" else str(this_machine()),
        steps=len(timed),
        seconds=median,
        images_per_second=config.batch_size / median,
        peak_gb=_peak_bytes(processes.device) / 1e9,
        achieved_tflops=achieved,
        utilization=None if peak_tflops is None else achieved / peak_tflops,
        terms=terms,
    )


def _flops_per_image(preset: str, stage: str, config: StageConfig) -> float:
    """Forward, teacher, backward and search, and each image's part of mapping the codes."""
    counted = plan(recipe(preset).model_copy(update={stage: config}), devices=1, tflops=1)
    (phase,) = (phase for phase in counted.phases if phase.stage == stage)
    flops = phase.flops
    each = flops.forward + flops.teacher + flops.backward + flops.search
    return each + flops.codes_map_per_pass * config.accumulation / config.batch_size


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()


def main() -> None:
    """Command line; see the module."""
    parser = StudyParser("training_step", __doc__)
    parser.add_argument("preset")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--perceptual", choices=("none", "teacher", "lpips-convnext"), default="teacher")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the device at this precision, for its utilization")
    options = parser.parse_args()
    stage: StageConfig = getattr(recipe(options.preset), options.stage)
    changes = {"batch_size": options.batch, "precision": options.precision, "perceptual": options.perceptual}
    config = stage.model_copy(update={**changes, "compile": options.compile})
    figures = measure(options.preset, options.stage, config, options.steps, options.peak_tflops)
    print(figures.model_dump_json(indent=2))


if __name__ == "__main__":
    run_as_program(main)
