"""The page on the ablations: tables, what the paper says beside what is seen, and a reading that people write.

The reading stands between two markers; it is kept when the page is written again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from vqrae.benchmarks.page import write_page
from vqrae.benchmarks.studies.ablations.findings import Findings, Spread, Written, fixed
from vqrae.benchmarks.studies.ablations.grid import DISTILLED, STRATEGIES, TWO_STAGE, UNDISTILLED, Experiment, runs_of
from vqrae.benchmarks.studies.ablations.plots import write_plots
from vqrae.benchmarks.studies.ablations.runs import machine_and_versions
from vqrae.runtimes.errors import UsageError

READING, END_OF_READING = "<!-- reading: written by hand, kept by the command -->", "<!-- end of the reading -->"
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
NO_READING = f"{READING}\n\n{END_OF_READING}"

PSNR, PERCENT, WHOLE, TENTH = fixed(2), fixed(1, factor=100), fixed(0), fixed(1)
PSNR_CHANGE = fixed(2, signed=True)

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


def reading_of(path: Path) -> str:
    """What people wrote into the page, markers included; only the markers if there is no page.

    Raises:
        UsageError: a page without them, which would be lost.
    """
    if not path.exists():
        return NO_READING
    text = path.read_text(encoding="utf-8")
    begin, end = text.find(READING), text.find(END_OF_READING)
    if not 0 <= begin < end:
        expected, remedy = f"`{READING}` and `{END_OF_READING}` in it", "put them in, or give another file"
        raise UsageError(str(path), got="a page without a place for the reading", expected=expected, remedy=remedy)
    return text[begin : end + len(END_OF_READING)]


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
    return "\n\n".join(textwrap.fill(part, 120, break_on_hyphens=False) for part in text.split("\n\n"))


def _claims(findings: Findings) -> str:
    """What the paper says, and the same figures from here."""
    return _lines(("the paper", "seen here"), list(zip(PAPER, _seen(findings), strict=True)), figures=0)


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
    return _lines(titles, rows, figures=3)


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
    return _lines((*keys, *(title for title, _, _ in columns)), rows, figures=len(columns))


def _lines(titles: Sequence[str], rows: Sequence[Sequence[str]], *, figures: int) -> str:
    """A Markdown table whose last columns are figures."""
    rule = ["---"] * (len(titles) - figures) + ["--:"] * figures
    return "".join(f"| {' | '.join(line)} |\n" for line in [titles, rule, *rows])


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
