"""The paper's claims on codebook and strategy, tried at a size that runs here: tables, plots, and what was expected.

    python -m vqrae.benchmarks.studies.ablations -o docs/figures/ablations.md --work runs/ablations --workers 2

A run that was stopped goes on, unfinished training from its last saved state. What was changed in the grid is run anew,
the rest is kept. The page shows all that is in the work folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqrae.benchmarks.report.page import save_plot, write_page
from vqrae.benchmarks.studies.ablation_grid import (
    DISTILLED,
    EXPERIMENTS,
    INITS,
    STRATEGIES,
    TWO_STAGE,
    UNDISTILLED,
    Experiment,
    Findings,
    full_scale,
    runs_of,
)
from vqrae.benchmarks.studies.ablation_runs import Workplace, tasks_of
from vqrae.benchmarks.studies.runner import Log, machine_and_versions, run, unfinished
from vqrae.benchmarks.studies.study import (
    Spread,
    StudyParser,
    Written,
    check_least,
    fixed,
    reading_of,
    table,
    wrapped,
)
from vqrae.runtimes.errors import run_as_program

SETTING = """The paper's ablations at a size that runs on two cores: {model.image_size} px, {grid} tokens,
features {model.feature_width} wide, {depth} + {depth} blocks; {codebook.codebook_size} codes {codebook.code_width}
wide, init `{codebook.init}`, where nothing else is said. {scale.stage1.steps} steps of stage 1; each strategy takes
{scale.end_to_end.steps}, the two stages {scale.stage1.steps} and {scale.stage2.steps} of them;
{scale.stage1.batch_size} images a step. The loss is pixels, quantizer and distillation: no perceptual and no
adversarial term. The encoder is pretrained on labelled scenes for {scale.pretrain.steps} steps, once for each seed.
Mean ± standard deviation over {seeds} seeds; a seed names encoder, initial weights and batches.

PSNR and SSIM: {judged.crops} crops of the held-out photographs. Usage and perplexity: {judged.tokens} tokens of
training data that was not trained on. Probe: a linear classifier on the mean of the features, learnt on
{judged.probe_train} scenes over training photographs, judged on {judged.probe_test} over held-out ones. Init `normal`
is the paper's, `features` places the codes by k-means. Codes refitted: placed by k-means once more after the last
step, as the small presets do, and the paper does not."""
PAPER = (
    "A narrow codebook fails: ≤ 0.22 times the features' width does not converge; usage 64 % at 0.33 times, 83 % at 1, "
    "100 % at 1.33, 98 % at 1.67",
    "PSNR rises with the width: 8.24 at 0.33 times, 17.22 at 1, 20.14 at 1.33, 20.07 at 1.67",
    "4096 to 16384 codes are all used, of 32768 96 %",
    "More codes, higher PSNR, as long as they are used: 8.02 with 4096, 17.02, 20.14 with 16384, 19.94 with 32768",
    "SimVQ's start does not collapse at 1.33 times the width: 100 % of 16384",
    "Stage 2, in which the encoder learns too, serves reconstruction; figures after stage 1 are not given",
    "Distillation keeps the semantics: MME-P 608.9 end-to-end without, 1435.2 with, 1439.1 in two stages",
    "Distillation costs PSNR, and two stages win part of it back: 21.35 end-to-end without, 19.68 with, 20.52 in two "
    "stages",
)
"""Widths relative to 1152, the features' of SigLIP2-so400m."""
PSNR, PERCENT, WHOLE, TENTH = fixed(2), fixed(1, factor=100), fixed(0), fixed(1)
PSNR_CHANGE = fixed(2, signed=True)

COLORS = {"normal": "#c2571a", "features": "#3b6fb6", "paper": "#8a93a3"}
PAPER_WIDTH = 1152
"""Width of the features of the encoder in the paper's ablations, SigLIP2-so400m [P]."""
PAPER_USAGE = {384: 0.64, 768: 0.69, 1152: 0.83, 1536: 1.0, 1920: 0.98}
"""Usage of 16384 codes by their width; at 256 and less, training did not converge [P] §4."""

Column = tuple[str, str, Written]
"""Title, figure, how it is written."""
CODEBOOK: tuple[Column, ...] = (
    ("usage %", "codebook_usage", PERCENT),
    ("perplexity", "perplexity", WHOLE),
    ("effective rank", "effective_rank", TENTH),
    ("features' norm", "feature_norm", PSNR),
    ("codes' norm", "code_norm", PSNR),
    ("PSNR dB", "psnr_db", PSNR),
    ("SSIM", "ssim", fixed(3)),
)
STRATEGY: tuple[Column, ...] = (
    ("PSNR dB", "psnr_db", PSNR),
    ("SSIM", "ssim", fixed(3)),
    ("usage %", "codebook_usage", PERCENT),
    ("perplexity", "perplexity", WHOLE),
    ("PSNR dB, codes refitted", "refitted_psnr_db", PSNR),
    ("probe %", "probe_mean", PERCENT),
    *((f"{name} %", f"probe_{name}", PERCENT) for name in ("shape", "color", "position", "count")),
)


def write_ablation_page(findings: Findings, path: Path, module: str) -> None:
    """Write the page, and its plots into a folder beside it of the same name.

    Raises:
        UsageError: the file is there and has no place for a reading.
        StorageError: the operating system refused to write.
    """
    reading = reading_of(path)
    write_plots(findings, path.with_suffix(""))
    write_page(path, page_text(findings, reading, path.stem), module)


def page_text(findings: Findings, reading: str, plots: str) -> str:
    """The page without its last lines; `plots` is the folder of the plots, relative to the page."""
    return "\n".join(_parts(findings, reading, plots))


def _parts(findings: Findings, reading: str, plots: str) -> Iterator[str]:
    yield f"# Ablations\n\n{_setting(findings)}\n"
    yield f"## Expected and seen\n\n{_claims(findings)}\n{reading}\n"
    yield f"## Width of the codes\n\n![Usage, perplexity and PSNR by width]({plots}/dimension.svg)\n"
    yield _table(findings, "dimension", ("width", "init"), CODEBOOK)
    yield f"## Number of codes\n\n![Usage, perplexity and PSNR by number]({plots}/size.svg)\n"
    yield _table(findings, "size", ("codes", "init"), CODEBOOK)
    yield "## Start of the codes\n"
    yield _table(findings, "init", ("width", "init"), CODEBOOK)
    yield f"## Strategy\n\n![PSNR and linear probe by strategy]({plots}/strategy.svg)\n"
    yield _table(findings, "strategy", ("strategy",), STRATEGY) + _encoder_row(findings)
    yield _stages(findings)
    yield _made(findings)


def _setting(findings: Findings) -> str:
    """What was trained, and how it is judged."""
    scale = findings.scale
    model = scale.model
    text = SETTING.format(
        scale=scale,
        model=model,
        codebook=model.quantizer,
        depth=model.decoder.depth,
        grid="×".join(map(str, model.grid)),
        seeds=len(scale.seeds),
        judged=scale.measuring,
    )
    return wrapped(text)


def _claims(findings: Findings) -> str:
    """What the paper says, and the same figures from here."""
    return table(("the paper", "seen here"), list(zip(PAPER, _seen(findings), strict=True)))


def _seen(findings: Findings) -> list[str]:
    """An answer to each of `PAPER`."""
    change, refitted = (_stage_change(findings, name) for name in ("psnr_db", "refitted_psnr_db"))
    probes, encoder = _strategies(findings, "probe_mean", PERCENT), PERCENT(findings.encoder("probe_mean"))
    return [
        f"usage % by width, {_both(findings, 'dimension', 'codebook_usage', PERCENT)}",
        f"PSNR by width, {_both(findings, 'dimension', 'psnr_db', PSNR)}",
        f"usage % by number, {_both(findings, 'size', 'codebook_usage', PERCENT)}",
        f"PSNR by number, {_both(findings, 'size', 'psnr_db', PSNR)}",
        f"perplexity by width, {_both(findings, 'init', 'perplexity', WHOLE)}",
        f"PSNR {PSNR_CHANGE(change)} dB; with the codes refitted {PSNR_CHANGE(refitted)} dB",
        f"probe %: {probes}; pretrained encoder {encoder}",
        f"PSNR: {_strategies(findings, 'psnr_db', PSNR)}",
    ]


def _both(findings: Findings, experiment: Experiment, figure: str, written: Written) -> str:
    """One figure along a table, for each init."""
    rows: dict[str, list[str]] = {}
    for row in findings.rows(experiment):
        value = written(findings.spread(experiment, row, figure))
        rows.setdefault(row[1], []).append(f"{row[0]}: {value}")
    return "; ".join(f"`{init}` {', '.join(values)}" for init, values in rows.items())


def _strategies(findings: Findings, figure: str, written: Written) -> str:
    names = {UNDISTILLED: "end-to-end without", DISTILLED: "with", TWO_STAGE: "in two stages"}
    return ", ".join(
        f"{written(findings.spread('strategy', (strategy,), figure))} {names[strategy]}" for strategy in STRATEGIES
    )


def _stages(findings: Findings) -> str:
    """Two-stage training after each stage."""
    rows = [
        (
            title,
            written(findings.spread("strategy", (TWO_STAGE,), f"stage1_{name}")),
            written(findings.spread("strategy", (TWO_STAGE,), name)),
            written(findings.spread("strategy", (TWO_STAGE,), f"refitted_{name}")),
        )
        for title, name, written in CODEBOOK
    ]
    titles = ("two stages", "after stage 1", "after stage 2", "codes refitted")
    return table(titles, rows, figures=3)


def _stage_change(findings: Findings, after: str) -> Spread | None:
    return findings.change("strategy", (TWO_STAGE,), "stage1_psnr_db", after)


def _encoder_row(findings: Findings) -> str:
    cells = [written(findings.encoder(name)) if name.startswith("probe") else "" for _, name, written in STRATEGY]
    return f"| {' | '.join(['pretrained encoder', *cells])} |\n"


def _table(findings: Findings, experiment: Experiment, keys: Sequence[str], columns: Sequence[Column]) -> str:
    rows = [
        [*row, *(written(findings.spread(experiment, row, name)) for _, name, written in columns)]
        for row in findings.rows(experiment)
    ]
    return table((*keys, *(title for title, _, _ in columns)), rows, figures=len(columns))


def _made(findings: Findings) -> str:
    """What was run, when, and where if it was not here."""
    runs = runs_of(findings.cells)
    finished = [findings.results[run.key] for run in runs if run.key in findings.results]
    if not finished:
        return f"0 of {len(runs)} runs."
    dates = sorted(result.date for result in finished)
    hours = sum(result.seconds for result in finished) / 3600
    made_on = {result.made_on for result in finished}
    elsewhere = "" if made_on == {machine_and_versions()} else f" Run on: {'; '.join(sorted(made_on))}."
    return (
        f"{len(finished)} of {len(runs)} runs, {hours:.2f} hours of one thread, {dates[0]} to {dates[-1]}.{elsewhere}\n"
    )


def write_plots(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write `dimension.svg`, `size.svg` and `strategy.svg`; what is not finished is left out."""
    dimension, size, strategy = (folder / f"{name}.svg" for name in ("dimension", "size", "strategy"))
    label = f"width of the codes; the features' is {findings.scale.model.feature_width}"
    _plot_codebooks(findings, "dimension", label, dimension)
    _plot_codebooks(findings, "size", "codes", size)
    _plot_strategies(findings, strategy)
    return dimension, size, strategy


def _plot_codebooks(findings: Findings, experiment: Experiment, label: str, path: Path) -> None:
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    shown = (("codebook_usage", "usage"), ("perplexity", "perplexity"), ("psnr_db", "held-out PSNR, dB"))
    width = findings.scale.model.feature_width if experiment == "dimension" else 1
    for axes, (name, title) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for init in INITS:
            rows = [row for row in findings.rows(experiment) if row[1] == init]
            values = [findings.spread(experiment, row, name) for row in rows]
            _line(axes, [int(row[0]) / width for row in rows], values, init)
        if experiment == "dimension" and name == "codebook_usage":
            xs = [wide / PAPER_WIDTH for wide in PAPER_USAGE]
            label_of_paper = "paper, same ratio to the features' width"
            axes.plot(xs, list(PAPER_USAGE.values()), "--", color=COLORS["paper"], label=label_of_paper)
            axes.set_ylim(0, 1.05)
        axes.set_xscale("log", base=2)
        ticks = list(dict.fromkeys(row[0] for row in findings.rows(experiment)))
        axes.set_xticks([int(tick) / width for tick in ticks], ticks)
        axes.set_xlabel(label, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        if axes.lines:
            axes.legend(fontsize=7)
    save_plot(figure, path)


def _line(axes: Axes, xs: Sequence[float], values: Sequence[Spread | None], init: str) -> None:
    there = [(x, value) for x, value in zip(xs, values, strict=True) if value is not None]
    if not there:
        return
    axes.errorbar(
        [x for x, _ in there],
        [value.mean for _, value in there],
        yerr=[value.deviation or 0 for _, value in there],
        marker="o",
        markersize=4,
        capsize=3,
        color=COLORS[init],
        label=init,
    )


def _plot_strategies(findings: Findings, path: Path) -> None:
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, title, factor in (
        (left, "psnr_db", "held-out PSNR, dB", 1.0),
        (right, "probe_mean", "linear probe, %", 100.0),
    ):
        values = {strategy: findings.spread("strategy", (strategy,), name) for strategy in STRATEGIES}
        if name == "probe_mean":
            values["pretrained encoder"] = findings.encoder(name)
        _points(axes, values, factor)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    save_plot(figure, path)


def _points(axes: Axes, values: dict[str, Spread | None], factor: float) -> None:
    """Points and not bars: the axis need not begin at 0, and differences are small beside the figures."""
    there = {name: value for name, value in reversed(values.items()) if value is not None}
    axes.errorbar(
        [value.mean * factor for value in there.values()],
        range(len(there)),
        xerr=[(value.deviation or 0) * factor for value in there.values()],
        fmt="o",
        markersize=5,
        capsize=3,
        color=COLORS["features"],
    )
    axes.set_yticks(range(len(there)), list(there))
    axes.set_ylim(-0.5, max(len(there), 1) - 0.5)
    axes.grid(axis="x", alpha=0.3)


def main() -> None:
    """Command line; see the module."""
    parser = StudyParser("ablations", __doc__)
    parser.add_output("Markdown file; its reading is kept")
    parser.add_work(Path("runs/ablations"))
    parser.add_workers()
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", help="run only this table; all if not given")
    parser.add_argument("--list", action="store_true", help="only list the runs, their steps and what is done")
    options = parser.parse_args()
    check_least("--workers", options.workers, 1)
    scale, place, log = full_scale(), Workplace(options.work), Log(options.work)
    wanted: Sequence[Experiment] = options.only or EXPERIMENTS
    tasks = tasks_of(runs_of([cell for cell in scale.cells() if cell.experiment in wanted]), place.folder)
    if options.list:
        missing = unfinished(tasks, log.results())
        for task in tasks:
            print(f"{task.weight:5d} steps  {'     ' if task in missing else 'done '} {task.name}")
        print(f"{len(missing)} of {len(tasks)} runs to do, {sum(task.weight for task in missing)} steps")
        return
    reading_of(options.output)  # a page that cannot be kept is told before the work, not after it
    place.prepare()
    run(tasks, log, workers=options.workers, unit="steps")
    write_ablation_page(Findings(scale, log.results()), options.output, options.module)


if __name__ == "__main__":
    run_as_program(main)
