"""The steps: each trains or measures one thing, from what the steps that it needs left in the work folder.

A step may be stopped at any time: training goes on where it was saved, measuring begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vqrae.benchmarks.report.picture import GROUND, INK
from vqrae.benchmarks.studies.downstream_scale import UsesScale, Workplace
from vqrae.benchmarks.studies.runner import Figures, Log, Task
from vqrae.calibration.images import calibration_images
from vqrae.checkpoint import from_pretrained, open_checkpoint
from vqrae.downstream.conversations import WorldConversations
from vqrae.downstream.lessons import CheckpointCodes, painting_loss
from vqrae.downstream.painter import Painter
from vqrae.downstream.reader import Reader
from vqrae.downstream.recognition import Recognizer, neighbors_accuracy, pooled_quantized
from vqrae.downstream.tasks import (
    JUDGED,
    Extent,
    Paintings,
    TaskReport,
    asked_of,
    asked_scenes,
    fit_probe,
    generate_task,
    judge_of,
    paintings,
    probe_scenes,
    probe_task,
    test_scenes,
    token_agreement,
    vqa_task,
)
from vqrae.downstream.teaching import PaintingRecipe, teach_painter, teach_reader
from vqrae.downstream.world import Split, World, caption, labels_of
from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.images.photographs import write_photographs
from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.model.quantizers.config import SimVQConfig
from vqrae.model.reference import ArrayTokenizer, ReferenceTokenizer
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.staging import staged_file, staged_folder
from vqrae.runtimes.tokenizer import load
from vqrae.training.config import PhaseName
from vqrae.training.evaluation.evaluate import evaluate
from vqrae.training.evaluation.feature_space import open_teacher
from vqrae.training.evaluation.probe import LinearProbe, pooled_features
from vqrae.training.run import TrainingRun

VERIFIED, CALIBRATED = 32, 160
"""Scenes that bundles are verified on, and that INT8 is calibrated on."""
SCENE_SEED, CODE_SEED, VALID_SEED = 1_000_010, 1_000_011, 1_000_012
SAMPLE_QUESTIONS = 6
PICTURED, PICTURES_EACH = 8, 8
"""Prompts that are shown, and images of each."""

CELL, GAP, MARGIN, FONT_SIZE = 72, 6, 10, 14
"""In pixels; an image is enlarged to `CELL`."""

JUDGED_PAINTER = "painter"
"""The step that trains the painter whose images are judged."""


def tasks_of(scale: UsesScale, place: Workplace) -> list[Task]:
    """All steps, each after those that it needs, the longest chains first."""

    def step(name: str, needs: tuple[str, ...], work: Callable[..., Figures], **what: str | int) -> Task:
        return Task(name, partial(work, scale, place, **what), name, needs)

    targets = [{"format_name": name, "precision": precision} for name, precision in scale.exports]
    return [
        step("scenes", (), write_scenes),
        step("pretrain", ("scenes",), train_tokenizer, phase="pretrain"),
        step("stage1", ("pretrain",), train_tokenizer, phase="stage1"),
        step("stage2", ("stage1",), train_tokenizer, phase="stage2"),
        step("reader", ("pretrain",), train_reader),
        step("codes", ("stage2",), write_codes),
        step(JUDGED_PAINTER, ("codes",), paint_judged),
        *(
            step(painter_name(size, seed), ("codes",), paint, size=size, seed=seed)
            for size, seed in reversed(scale.painters)
        ),
        *(step(export_name(**what), ("scenes", "stage2"), export, **what) for what in targets),
        step("probes", ("stage2",), measure_probes),
        step("reading", ("reader", "stage2"), measure_reading),
        step("paintings", (JUDGED_PAINTER,), write_paintings),
        step("pictures", ("reader", JUDGED_PAINTER), draw_pictures),
        step("pytorch", ("reader", "paintings"), through_pytorch),
        step("guidance", (JUDGED_PAINTER,), measure_guidance),
        *(
            step(bundle_name(**what), (export_name(**what), "reader", "paintings"), through_bundle, **what)
            for what in targets
        ),
    ]


def export_name(format_name: str, precision: str) -> str:
    """The step that makes a bundle."""
    return f"export {format_name} {precision}"


def bundle_name(format_name: str, precision: str) -> str:
    """The step that does the tasks through it."""
    return f"bundle {format_name} {precision}"


def painter_name(size: str, seed: int) -> str:
    """The step that trains it."""
    return f"painter {size} {seed}"


def write_scenes(scale: UsesScale, place: Workplace) -> Figures:
    """Photographs, which training asks for, and scenes as files, to verify and to calibrate on."""
    if not place.photographs.exists():
        write_photographs(place.photographs)
    size = scale.tokenizer.model.image_size
    splits: tuple[tuple[str, Split, int], ...] = (("verify", "test", VERIFIED), ("calibrate", "any", CALIBRATED))
    with staged_folder(place.scenes, overwrite=True) as staging:
        for name, split, count in splits:
            (staging / name).mkdir()
            for number, image in enumerate(World(size=size, split=split).batch(count, [SCENE_SEED]).images):
                Image.fromarray(image).save(staging / name / f"{number:03d}.png")
    return {}


def train_tokenizer(scale: UsesScale, place: Workplace, phase: PhaseName) -> Figures:
    """Pre-training, stage 1 or stage 2."""
    world = World(size=scale.tokenizer.model.image_size, split="any")
    data = str(place.photographs / "train")
    run = TrainingRun(scale.tokenizer, data, place.tokenizer, seed=scale.seeds[0], scenes=world)
    run.run(phase)
    if phase != "stage2":
        return {}
    model, size = from_pretrained(place.checkpoint), scale.tokenizer.model.image_size
    codes = model.config.quantizer.codebook_size
    images = test_scenes(size, "test", scale.extent).images
    report = evaluate(ReferenceTokenizer(model), codes, images, "stage 2", model=model)
    return report.model_dump(include={"psnr_db", "ssim", "codebook_usage", "perplexity", "images"})


def train_reader(scale: UsesScale, place: Workplace) -> Figures:
    """The reader of the pretrained encoder's features."""
    data = WorldConversations(
        World(size=scale.tokenizer.model.image_size, split="train"), scale.reading.images, scale.seeds[0]
    )
    encoder = Encoder.from_pretrained(str(place.encoder))
    folder = teach_reader(place.reader.parent, scale.reading, encoder, data, seed=scale.seeds[0])
    reader = Reader.open(folder)
    return {"parameters": sum(parameter.numel() for parameter in reader.parameters())}


def write_codes(scale: UsesScale, place: Workplace) -> Figures:
    """The codes that the painters learn from."""
    codes = CheckpointCodes(place.checkpoint)
    codes.painted(_painted_scenes(scale, "train"), place.codes)
    for split in JUDGED:
        codes.painted(_painted_scenes(scale, split), _valid_codes(place, split))
    return {}


def paint_judged(scale: UsesScale, place: Workplace) -> Figures:
    """The painter whose images are judged."""
    return _painter(JUDGED_PAINTER, scale.painting, scale.seeds[0], scale, place)


def paint(scale: UsesScale, place: Workplace, size: str, seed: int) -> Figures:
    """One of the painters that show the scaling."""
    recipe = scale.scaling.model_copy(update={"language": scale.sizes[size]})
    return _painter(painter_name(size, seed), recipe, seed, scale, place)


def _painter(step: str, recipe: PaintingRecipe, seed: int, scale: UsesScale, place: Workplace) -> Figures:
    """A painter, and its loss on scenes that it has not seen."""
    codes = CheckpointCodes(place.checkpoint)
    data = codes.painted(_painted_scenes(scale, "train"), place.codes)
    painter = Painter.open(teach_painter(place.painter_run(step), recipe, data, codes, seed=seed))
    losses = {
        split: painting_loss(painter, codes.painted(_painted_scenes(scale, split), _valid_codes(place, split)))
        for split in JUDGED
    }
    parameters = sum(parameter.numel() for parameter in painter.parameters())
    embedded = painter.language.get_input_embeddings().weight.numel()
    return {"losses": losses, "parameters": parameters, "embedding_parameters": embedded}


def export(scale: UsesScale, place: Workplace, format_name: str, precision: str) -> Figures:
    """One bundle; a gate that it misses is a figure, and so is a runtime that is not here."""
    wanted = target(format_name, precision)
    try:
        check_target(wanted)
    except RuntimeUnavailable as error:
        return {"missing": str(error)}
    opened = VqraeTokenizer(open_checkpoint(str(place.checkpoint)))
    images = parity_images(place.scenes / "verify", opened.model.size, VERIFIED)
    observed = None
    if PRECISIONS[precision].needs_images:
        observed = calibration_images(place.scenes / "calibrate", opened.model.size)
    with BundleBuilder(opened, images, lambda text: None, observed) as builder:
        try:
            row = builder.build(wanted, place.bundles, allow_gate_failure=True, overwrite=True)
        except GateFailure as error:
            return {"missing": str(error)}
        return {"bundle": builder.name(wanted), "gate": row.gate, "misses": list(row.misses), "means": row.means}


def measure_probes(scale: UsesScale, place: Workplace) -> Figures:
    """Linear probe and nearest neighbours on the pretrained encoder, and on both kinds of the tokenizer's features."""
    size = scale.tokenizer.model.image_size
    tokenizer = from_pretrained(place.checkpoint)
    sources = {
        "pretrained encoder": partial(pooled_features, _pretrained(scale, place)),
        "continuous features": partial(pooled_features, ReferenceTokenizer(tokenizer)),
        "quantized features": partial(pooled_quantized, tokenizer),
    }
    train = probe_scenes(size, scale.extent)
    tests = {split: test_scenes(size, split, scale.extent) for split in JUDGED}
    figures: Figures = {}
    for name, pooled in sources.items():
        train_BC = pooled(train.images)
        probe = LinearProbe(train_BC, train.labels)
        for split, test in tests.items():
            test_BC = pooled(test.images)
            figures.setdefault(name, {})[split] = {
                "linear": probe.accuracy(test_BC, test.labels),
                "neighbors": neighbors_accuracy(train_BC, train.labels, test_BC, test.labels),
            }
    return figures


def measure_reading(scale: UsesScale, place: Workplace) -> Figures:
    """The reader with the encoder that it learned with, and with the tokenizer's in its place; some answers."""
    size, reader = scale.tokenizer.model.image_size, Reader.open(place.reader)
    tokenizers = {
        "pretrained encoder": _pretrained(scale, place),
        "tokenizer": ReferenceTokenizer(from_pretrained(place.checkpoint)),
    }
    figures: Figures = {
        name: vqa_task(tokenizer, size, name, scale.extent, reader=reader).accuracy
        for name, tokenizer in tokenizers.items()
    }
    return {**figures, "samples": _sample_answers(tokenizers["tokenizer"], size, scale.extent, reader)}


def write_paintings(scale: UsesScale, place: Workplace) -> Figures:
    """Codes for the captions of each split's scenes, by the judged painter."""
    painter, size = _judged_painter(place), scale.tokenizer.model.image_size
    for part in paintings(painter, size, scale.extent, scale.sampling):
        with staged_file(place.painted(part.split)) as staging, staging.open("wb") as file:
            np.save(file, part.indices_BN, allow_pickle=False)
    return {}


def draw_pictures(scale: UsesScale, place: Workplace) -> Figures:
    """Images of some prompts, scenes with their reconstructions, and the scenes that the sample questions are about."""
    size = scale.tokenizer.model.image_size
    tokenizer, painter = ReferenceTokenizer(from_pretrained(place.checkpoint)), _judged_painter(place)
    pictures: dict[str, Image.Image] = {}
    for split in JUDGED:
        prompts = [caption(labels) for labels in labels_of(asked_scenes(size, split, scale.extent))[:PICTURED]]
        repeated = [prompt for prompt in prompts for _ in range(PICTURES_EACH)]
        codes = painter.paint(repeated, scale.sampling, seed=1).reshape(-1, *scale.tokenizer.model.grid)
        images = tokenizer.decode(codes)
        pictures[f"generated-{split}"] = grid_picture(images.reshape(len(prompts), -1, size, size, 3), prompts)
    scenes = test_scenes(size, "test", scale.extent).images[:PICTURES_EACH]
    rebuilt = tokenizer.decode(tokenizer.encode(scenes)[0])
    pictures["reconstructed"] = grid_picture(np.stack([scenes, rebuilt]), ["scenes", "reconstructions"])
    asked = test_scenes(size, "test", scale.extent).images[:SAMPLE_QUESTIONS]
    pictures["asked"] = grid_picture(asked[None], ["1 to 6, from the left"])
    for name, picture in pictures.items():
        with staged_file(place.picture(name)) as staging:
            picture.save(staging, optimize=True)
    return {"pictures": list(pictures)}


def through_pytorch(scale: UsesScale, place: Workplace) -> Figures:
    """The three tasks in PyTorch: what the bundles are compared with."""
    return _all_tasks(ReferenceTokenizer(from_pretrained(place.checkpoint)), "PyTorch", scale, place, scale.extent)


def through_bundle(scale: UsesScale, place: Workplace, format_name: str, precision: str) -> Figures:
    """The three tasks with features and pixels of one bundle, and PyTorch's on the same images."""
    exported = Log(place.folder).finished(export_name(format_name, precision)).figures
    if "missing" in exported:
        return {"missing": exported["missing"]}
    evaluated = exported["means"] == "evaluator"
    extent = scale.evaluated if evaluated else scale.extent
    reference = ReferenceTokenizer(from_pretrained(place.checkpoint))
    with load(place.bundles / exported["bundle"], threads=1 if not evaluated else None) as tokenizer:
        figures = _all_tasks(tokenizer, exported["bundle"], scale, place, extent)
        agreement = token_agreement(tokenizer, reference, scale.tokenizer.model.image_size, extent)
    beside = _all_tasks(reference, "PyTorch", scale, place, extent) if evaluated else {}
    return {**figures, "token_agreement": agreement, **({"pytorch": beside} if beside else {})}


def measure_guidance(scale: UsesScale, place: Workplace) -> Figures:
    """What the scale of the guidance does, and images of one prompt with several seeds."""
    size, codes = scale.tokenizer.model.image_size, scale.tokenizer.model.quantizer.codebook_size
    judge, tokenizer = _judge(place.folder, size, scale.extent), ReferenceTokenizer(from_pretrained(place.checkpoint))
    painter, space = _judged_painter(place), _teacher(place, size)
    figures: Figures = {}
    for guidance in scale.guidance:
        sampling = scale.sampling.model_copy(update={"guidance": guidance})
        painted = paintings(painter, size, scale.extent, sampling)
        report = generate_task(
            tokenizer, scale.tokenizer.model.grid, codes, f"guidance {guidance}", painted, judge, space
        )
        figures[str(guidance)] = report.model_dump(exclude={"task", "source", "token_agreement"})
    scenes = test_scenes(size, "test", scale.extent)
    rebuilt = tokenizer.decode(tokenizer.encode(scenes.images)[0])
    figures["scenes"] = judge.recognized(scenes.images, scenes.labels)
    figures["reconstructions"] = judge.recognized(rebuilt, scenes.labels)
    return figures


def _all_tasks(
    tokenizer: ArrayTokenizer, source: str, scale: UsesScale, place: Workplace, extent: Extent
) -> dict[str, Any]:
    config, size = scale.tokenizer.model, scale.tokenizer.model.image_size
    reports: list[TaskReport] = [
        probe_task(tokenizer, size, source, extent, probe=_probe(place.folder, size, extent)),
        vqa_task(tokenizer, size, source, extent, reader=Reader.open(place.reader)),
        generate_task(
            tokenizer,
            config.grid,
            config.quantizer.codebook_size,
            source,
            _painted(scale, place, extent),
            _judge(place.folder, size, scale.extent),
            _teacher(place, size),
        ),
    ]
    return {report.task: report.model_dump(exclude={"task", "source"}) for report in reports}


def _judged_painter(place: Workplace) -> Painter:
    return Painter.open(place.painter_run(JUDGED_PAINTER) / "painter")


def _painted(scale: UsesScale, place: Workplace, extent: Extent) -> list[Paintings]:
    """What the judged painter painted of each split, as far as it is judged."""
    size = scale.tokenizer.model.image_size
    parts = []
    for split in JUDGED:
        indices_BN = np.load(place.painted(split), allow_pickle=False)[: extent.generated]
        parts.append(Paintings(split, asked_scenes(size, split, extent), indices_BN))
    return parts


@cache
def _probe(folder: Path, size: int, extent: Extent) -> LinearProbe:
    """Of PyTorch's features; fitted once in a process, for all the bundles that it judges."""
    return fit_probe(ReferenceTokenizer(from_pretrained(Workplace(folder).checkpoint)), size, extent)


@cache
def _judge(folder: Path, size: int, extent: Extent) -> Recognizer:
    """Reads the pretrained encoder's features; fitted once in a process too."""
    place, scenes = Workplace(folder), probe_scenes(size, extent)
    tokenizer = ReferenceTokenizer(from_pretrained(place.checkpoint))
    return judge_of(_teacher(place, size).pooled, scenes, tokenizer.decode(tokenizer.encode(scenes.images)[0]))


def _teacher(place: Workplace, size: int) -> Any:
    teacher = open_teacher(str(place.encoder), (size, size))
    teacher.name = "the pretrained encoder's, mean over tokens"
    return teacher


def _pretrained(scale: UsesScale, place: Workplace) -> ReferenceTokenizer:
    """The pretrained encoder as a tokenizer, for its features: whoever reads them needs no codebook that fits."""
    encoder = Encoder.from_pretrained(str(place.encoder))
    quantizer = SimVQConfig(codebook_size=2, code_width=1)
    config = scale.tokenizer.model.model_copy(update={"encoder": encoder.config, "quantizer": quantizer})
    return ReferenceTokenizer(VQRAE(config, encoder))


def _painted_scenes(scale: UsesScale, split: Split) -> WorldConversations:
    size = scale.tokenizer.model.image_size
    if split == "train":
        return WorldConversations(World(size=size, split=split), scale.painting.images, CODE_SEED)
    return WorldConversations(World(size=size, split=split), scale.validated, VALID_SEED)


def _valid_codes(place: Workplace, split: Split) -> Path:
    return place.codes.with_name(f"{split}.npy")


def _sample_answers(tokenizer: ArrayTokenizer, size: int, extent: Extent, reader: Reader) -> list[list[list[str]]]:
    """Of the first scenes: question, answer, and what is right."""
    scenes = test_scenes(size, "test", extent)
    shown = []
    for number, asked in enumerate(asked_of(scenes)[:SAMPLE_QUESTIONS]):
        features = torch.from_numpy(tokenizer.encode(scenes.images[number : number + 1])[1])
        answers = [reader.answers(features, [one.question])[0] for one in asked]
        shown.append([[one.question, answer, one.answer] for one, answer in zip(asked, answers, strict=True)])
    return shown


def grid_picture(images: NDArray[np.uint8], titles: Sequence[str]) -> Image.Image:
    """Draw uint8 (R, B, H, W, 3): R rows, each with a title above it."""
    rows, columns = images.shape[:2]
    line = FONT_SIZE + GAP
    width = 2 * MARGIN + columns * (CELL + GAP) - GAP
    picture = Image.new("RGB", (width, 2 * MARGIN + rows * (line + CELL + GAP) - GAP), GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for row, title in enumerate(titles):
        top = MARGIN + row * (line + CELL + GAP)
        draw.text((MARGIN, top), title, INK, font)
        for column, image in enumerate(images[row]):
            shown = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.LANCZOS)
            picture.paste(shown, (MARGIN + column * (CELL + GAP), top + line))
    return picture
