"""The tokenizer's three uses, trained and judged from nothing: understanding, generation, reconstruction, and bundles.

    python -m vqrae.benchmarks.studies.downstream -o docs/figures/uses.md --work runs/uses

A run that was stopped goes on, unfinished training from its last saved state. Each step runs on one thread, so that its
figures do not depend on how many there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vqrae.benchmarks.report.figures import significant
from vqrae.benchmarks.report.page import save_plot, write_page
from vqrae.benchmarks.studies.downstream_findings import TASKS, SizeFindings, UsesFindings, task_score
from vqrae.benchmarks.studies.downstream_scale import UsesScale, Workplace, full_scale
from vqrae.benchmarks.studies.downstream_steps import tasks_of
from vqrae.benchmarks.studies.runner import Log, Result, opened_log, run
from vqrae.benchmarks.studies.study import StudyParser, check_least, fixed, reading_of, table, wrapped
from vqrae.downstream.tasks import JUDGED
from vqrae.downstream.world import NAMES, TOPICS, Split
from vqrae.runtimes.errors import run_as_program
from vqrae.runtimes.staging import staged_file

SETTING = """One tokenizer for three jobs: reconstruction, understanding with its continuous features, generation with
its tokens; at a size that trains on two cores. The images are scenes of a labelled world (`vqrae/downstream/world.py`):
{shapes} shapes, {colors} colors, {positions} positions, {counts} counts over {textures} photographic textures, one
sentence and six questions for each. Of each color one shape is held out: encoder, tokenizer and probes have seen these
pairs, the reader and the painters have not. Scenes of tests lie over other parts of the photographs.

The tokenizer: {size} px, {grid} tokens, {codes} codes, features {width} wide; encoder pre-training
{pretrain} steps, stage 1 {stage1}, stage 2 with distillation {stage2}. The reader: a two-layer GELU adapter and a Qwen3
of {reader:.1f} million parameters, {reading} steps on the *pretrained encoder's* features. The painters: Qwen3 models
whose vocabulary goes on with the codes, embedded at first as the codes' own vectors; batches of {batch} images,
{dropped:.0%} of the captions dropped; {scaling} steps to show the scaling, {painting} where images are judged.
What is judged: {test} scenes of each split, {generated} generated images of each; images are drawn with guidance
{guidance:g}, temperature {temperature:g}, top-p {top_p:g}. Recognition, and the Fréchet distance, are taken in the
pretrained encoder's features; the probe that recognizes was fitted on scenes and their reconstructions."""

COLORS: dict[Split, str] = {"test": "#2a78d6", "held-out": "#eb6834"}
PROBED = "Linear probe on the mean of the features, percent; in the last column the vote of the 20 nearest neighbours."


def write_uses_page(scale: UsesScale, place: Workplace, path: Path, module: str) -> None:
    """Write the page, and its pictures into a folder beside it of the same name.

    Raises:
        UsageError: the file is there and has no place for a reading.
        DataError: a step is not finished.
        StorageError: the operating system refused to write.
    """
    reading = reading_of(path)
    log = Log(place.folder)
    results = {task.key: log.finished(task.key) for task in tasks_of(scale, place)}
    findings, folder = UsesFindings(scale, results), path.with_suffix("")
    write_scaling_plot(findings.sizes(), folder / "scaling.svg")
    for name in results["pictures"].figures["pictures"]:
        with staged_file(folder / f"{name}.png") as staging:
            shutil.copyfile(place.picture(name), staging)
    write_page(path, "\n".join(_parts(findings, reading, folder.name)), module)


def _parts(findings: UsesFindings, reading: str, pictures: str) -> Iterator[str]:
    yield f"# The three uses\n\n{_setting(findings)}\n"
    yield f"## What holds\n\n{_verdicts(findings)}\n{reading}\n"
    yield f"## Reconstruction\n\n![Scenes above, reconstructions below]({pictures}/reconstructed.png)\n"
    yield _reconstruction(findings)
    yield f"## Understanding\n\n{PROBED}\n\n{_probes(findings)}"
    yield f"Questions answered right, percent; the reader learned with the pretrained encoder.\n\n{_reading(findings)}"
    yield f"![Scenes that are asked about]({pictures}/asked.png)\n\n{_samples(findings)}"
    yield "## Generation\n"
    yield f"Pairs that the painter has seen:\n\n![Images of prompts]({pictures}/generated-test.png)\n"
    yield f"Held-out pairs:\n\n![Images of held-out prompts]({pictures}/generated-held-out.png)\n"
    yield f"Recognized as asked, percent; `all` is every attribute at once.\n\n{_recognized(findings)}"
    yield f"The scale of the guidance:\n\n{_guidance(findings)}"
    yield f"## Scaling\n\n![Loss against parameters and compute]({pictures}/scaling.svg)\n\n{_scaling(findings)}"
    yield f"## Through the bundles\n\n{_bundle_note(findings)}\n\n{_bundles(findings)}"
    yield f"## Time\n\n{_times(findings.results)}"


def _setting(findings: UsesFindings) -> str:
    scale = findings.scale
    model = scale.tokenizer.model
    text = SETTING.format(
        **{f"{name}s": len(classes) for name, classes in NAMES.items()},
        size=model.image_size,
        grid="×".join(map(str, model.grid)),
        codes=model.quantizer.codebook_size,
        width=model.feature_width,
        pretrain=scale.tokenizer.pretrain.steps if scale.tokenizer.pretrain else 0,
        stage1=scale.tokenizer.stage1.steps,
        stage2=scale.tokenizer.stage2.steps,
        reader=findings.figures("reader")["parameters"] / 1e6,
        reading=scale.reading.phase.steps,
        scaling=scale.scaling_steps,
        painting=scale.painting.phase.steps,
        batch=scale.painting.phase.batch_size,
        dropped=scale.painting.dropped,
        test=scale.extent.test,
        generated=scale.extent.generated,
        guidance=scale.sampling.guidance,
        temperature=scale.sampling.temperature,
        top_p=scale.sampling.top_p,
    )
    return wrapped(text)


def _verdicts(findings: UsesFindings) -> str:
    rows = [(one.claim, one.seen, "yes" if one.holds else "**no**") for one in findings.verdicts()]
    return table(("to be shown", "seen", "holds"), rows)


def _reconstruction(findings: UsesFindings) -> str:
    figures = findings.figures("stage2")
    return (
        f"PSNR {figures['psnr_db']:.2f} dB, SSIM {figures['ssim']:.3f} on {figures['images']} scenes of `test`; "
        f"{figures['codebook_usage']:.1%} of the codes are used, perplexity {figures['perplexity']:.0f}.\n"
    )


def _probes(findings: UsesFindings) -> str:
    names = (*NAMES, "mean")
    rows = [
        (source, split, *_shares(kinds["linear"], names), _share(kinds["neighbors"]["mean"]))
        for source, splits in findings.figures("probes").items()
        for split, kinds in splits.items()
    ]
    return table(("features of", "pairs", *names, "neighbours, mean"), rows, figures=len(names) + 1)


def _reading(findings: UsesFindings) -> str:
    names, reading = (*TOPICS, "mean"), findings.figures("reading")
    rows = [
        (source, split, *_shares(reading[source][split], names))
        for source in ("pretrained encoder", "tokenizer")
        for split in JUDGED
    ]
    return table(("features of", "pairs", *names), rows, figures=len(names))


def _samples(findings: UsesFindings) -> str:
    """Questions in rows, scenes in columns; a wrong answer is struck out before the right one."""
    scenes = findings.figures("reading")["samples"]
    rows = []
    for asked in zip(*scenes, strict=True):
        alike = len({question for question, _, _ in asked}) == 1
        cells = [
            _answered(answer, right) if alike else f"{question} {_answered(answer, right)}"
            for question, answer, right in asked
        ]
        rows.append((asked[0][0] if alike else "yes or no", *cells))
    return table(("asked", *(str(number + 1) for number in range(len(scenes)))), rows)


def _answered(answer: str, right: str) -> str:
    return answer if answer == right else f"~~{answer}~~ {right}"


def _recognized(findings: UsesFindings) -> str:
    names, guidance = (*NAMES, "mean", "all"), findings.figures("guidance")
    judged = findings.figures("pytorch")["generate"]["accuracy"]
    rows = [
        ("scenes themselves", "test", *_shares(guidance["scenes"], names)),
        ("their reconstructions", "test", *_shares(guidance["reconstructions"], names)),
        *(("generated", split, *_shares(judged[split], names)) for split in JUDGED),
    ]
    return table(("images", "pairs", *names), rows, figures=len(names))


def _guidance(findings: UsesFindings) -> str:
    rows = []
    for scale in findings.scale.guidance:
        figures = findings.figures("guidance")[str(scale)]
        accuracy = [figures["accuracy"][split][name] for split in JUDGED for name in ("mean", "all")]
        rows.append(
            (
                f"{scale:g}",
                *map(_share, accuracy),
                f"{figures['frechet_distance']:.2f}",
                f"{figures['code_perplexity']:.0f}",
                f"{figures['code_distance']:.3f}",
            )
        )
    titles = ("guidance", "test, mean", "test, all", "held-out, mean", "held-out, all")
    others = ("Fréchet distance", "perplexity of codes", "histogram's distance from the data's")
    return table((*titles, *others), rows, figures=len(titles) + len(others) - 1)


def _scaling(findings: UsesFindings) -> str:
    written = fixed(3)
    rows = [
        (size.name, f"{size.parameters:,}", f"{size.flops:.2g}", *(written(size.losses[split]) for split in JUDGED))
        for size in findings.sizes()
    ]
    titles = ("size", "parameters", "training FLOPs", "loss, test", "loss, held-out")
    seeds = len(findings.scale.seeds)
    return f"{table(titles, rows, figures=4)}\nNats a code; mean ± standard deviation over {seeds} seeds.\n"


def _bundle_note(findings: UsesFindings) -> str:
    evaluated, extent = findings.scale.evaluated, findings.scale.extent
    text = (
        "Features, tokens and pixels come from the bundle; probe, reader and painter are those of PyTorch. Accuracy on "
        "the pairs of `test`, percent, and in brackets the difference from PyTorch on the same images, in points: one "
        f"scene of {extent.test} is {100 / extent.test:.2f} points of one attribute. Core ML is evaluated operation by "
        f"operation here, on {evaluated.test} scenes and {evaluated.generated} images."
    )
    return wrapped(text)


def _bundles(findings: UsesFindings) -> str:
    reference = findings.figures("pytorch")
    distance = reference["generate"]["frechet_distance"]
    first = [_share(task_score(reference, task)) for task in TASKS]
    rows: list[Sequence[str]] = [("PyTorch", "fp32", "reference", "–", *first, f"{distance:.2f}")]
    for bundle in findings.bundles():
        if bundle.missing is not None:
            rows.append((bundle.format_name, bundle.precision, bundle.missing, *["–"] * (len(TASKS) + 2)))
            continue
        cells = [f"{_share(task_score(bundle.figures, task))} ({bundle.changes[task] * 100:+.2f})" for task in TASKS]
        agreement = f"{bundle.figures['token_agreement']:.2%}"
        distance = bundle.figures["generate"]["frechet_distance"]
        rows.append((bundle.format_name, bundle.precision, bundle.gate, agreement, *cells, f"{distance:.2f}"))
    titles = ("runtime", "precision", "gate", "tokens", "probe", "questions", "generated", "Fréchet distance")
    return table(titles, rows, figures=5)


def _times(results: Mapping[str, Result]) -> str:
    rows = [(result.name, f"{result.seconds:,.0f}", f"{result.cpu_seconds:,.0f}") for result in results.values()]
    wall, cpu = (sum(getattr(result, name) for result in results.values()) for name in ("seconds", "cpu_seconds"))
    rows.append(("all", f"{wall:,.0f}", f"{cpu:,.0f}"))
    note = (
        f"Two steps at a time, one thread each; seconds of each, of a step that was stopped and gone on with those of "
        f"its last part. Together {cpu / 60:.0f} minutes of processor time, {cpu / 120:.0f} for each of two cores."
    )
    return f"{note}\n\n{table(('step', 'wall s', 'CPU s'), rows, figures=2)}"


def _shares(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_share(values[name]) for name in names]


def _share(value: float) -> str:
    return f"{value * 100:.1f}"


def write_scaling_plot(sizes: list[SizeFindings], path: Path) -> None:
    """Loss with the standard deviation over seeds, against parameters and against training's FLOPs."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    parameters = "million parameters", [size.parameters / 1e6 for size in sizes]
    compute = "training TFLOPs, 6 × parameters × tokens", [size.flops / 1e12 for size in sizes]
    for axes, (label, places) in zip(figure.subplots(1, 2), (parameters, compute), strict=True):
        for split, color in COLORS.items():
            spreads = [size.losses[split] for size in sizes]
            axes.errorbar(
                places,
                [spread.mean for spread in spreads],
                yerr=[spread.deviation or 0 for spread in spreads],
                marker="o",
                markersize=4,
                capsize=3,
                color=color,
                label=split,
            )
        axes.set_xscale("log")
        axes.set_xticks(places, [significant(place) for place in places])
        axes.minorticks_off()
        axes.set_xlabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("loss, nats a code", fontsize=8)
    save_plot(figure, path)


def main() -> None:
    """Command line; see the module."""
    parser = StudyParser("downstream", __doc__)
    parser.add_output("Markdown file; its reading is kept")
    parser.add_work(Path("runs/uses"))
    parser.add_workers()
    options = parser.parse_args()
    check_least("--workers", options.workers, 1)
    scale, place = full_scale(), Workplace(options.work)
    reading_of(options.output)  # a page that cannot be kept is told before the work, not after it
    with opened_log(options.work, scale.model_dump(mode="json")) as log:
        run(tasks_of(scale, place), log, workers=options.workers, unit="steps")
    write_uses_page(scale, place, options.output, options.module)


if __name__ == "__main__":
    run_as_program(main)
