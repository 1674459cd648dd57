from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from phases import phase_config, write_photographs
from tiny_models import tiny_config

from vqrae.benchmarks.studies import ablations, runner
from vqrae.benchmarks.studies.ablation_grid import (
    DISTILLED,
    STRATEGIES,
    TWO_STAGE,
    UNDISTILLED,
    AblationRun,
    Findings,
    Measuring,
    Scale,
    full_scale,
    runs_of,
)
from vqrae.benchmarks.studies.ablation_runs import Workplace, tasks_of
from vqrae.benchmarks.studies.ablations import page_text, write_plots
from vqrae.benchmarks.studies.runner import Log, Result, Task, perform_all, unfinished
from vqrae.benchmarks.studies.study import END_OF_READING, READING, Spread, fixed, reading_of
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.training.config import PretrainConfig, Stage1Config, Stage2Config
from vqrae.training.stages import Stage2
from vqrae.training.state import STATE_FILE
from vqrae.training.stopping import Terminated

pytestmark = pytest.mark.slow


def small_scale(**fields: Any) -> Scale:
    """Two widths, two sizes, one seed, three steps a phase."""
    small = {"steps": 3, "batch_size": 2, "warmup": 1, "save_every": 1}
    stage2 = phase_config(Stage2Config, **small)
    values: dict[str, Any] = {
        "model": tiny_config(init="features", codebook_size=16, code_width=8),
        "widths": (4, 8),
        "sizes": (8, 16),
        "init_widths": (8,),
        "seeds": (0,),
        "pretrain": phase_config(PretrainConfig, **small),
        "stage1": phase_config(Stage1Config, **small),
        "stage2": stage2,
        "end_to_end": stage2.model_copy(update={"steps": 6}),
        "measuring": Measuring(crops=4, tokens=256, probe_train=80, probe_test=40),
    }
    return Scale(**{**values, **fields})


class InThisProcess(Executor):
    """Performs what is submitted at once, and counts."""

    def __init__(self) -> None:
        self.performed: list[Task] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.performed.append(args[0])
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def workplace(folder: Path) -> Workplace:
    """One with three small images for each split."""
    place = Workplace(folder)
    for split in (place.train, place.held_out):
        split.mkdir(parents=True)
        write_photographs(split)
    return place


def performed(runs: list[AblationRun], folder: Path, executor: Executor, count: int = 1) -> dict[str, Result]:
    return perform_all(tasks_of(runs, folder), Log(folder), executor, count, lambda under_way, new: None)


def result(folder: Path, run: AblationRun) -> Result | None:
    return Log(folder).results().get(run.key)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small grid, all of it run."""
    folder = tmp_path_factory.mktemp("ablations") / "work"
    workplace(folder)
    executor = InThisProcess()
    results = performed(runs_of(small_scale().cells()), folder, executor, 2)
    assert len(results) == len(executor.performed) == 1 + 4 + 2 + 3
    return folder


@pytest.fixture
def made_up() -> Findings:
    """Two seeds with results that nobody measured."""
    scale = small_scale(seeds=(0, 1))
    results = {}
    for number, run in enumerate(runs_of(scale.cells())):
        names = ["psnr_db", "ssim", "codebook_usage", "perplexity", "effective_rank", "feature_norm", "code_norm"]
        probes = [f"probe_{name}" for name in ("mean", "shape", "color", "position", "count")]
        tokenizer = dict.fromkeys(names, 0.25 + 0.5 * run.seed) if run.encoder_run else {}
        semantic = dict.fromkeys(probes, 0.5 + 0.1 * run.seed) if run.phases != ("stage1",) else {}
        stages = {}
        if "stage2" in run.phases:
            stages = {f"{kind}_{name}": 1.0 for kind in ("stage1", "refitted") for name in names}
        figures = {**tokenizer, **semantic, **stages}
        date = f"2026-01-02T03:04:{number:02d}+00:00"
        known = {"key": run.key, "name": run.name, "seconds": 360, "cpu_seconds": 360}
        results[run.key] = Result(figures=figures, made_on="Elsewhere", date=date, **known)
    return Findings(scale, results)


def test_the_grid_holds_every_comparison_with_as_many_steps_for_each_strategy() -> None:
    scale = full_scale()
    cells = scale.cells()
    runs = runs_of(cells)
    assert len({run.key for run in runs}) == len(runs) == 3 * (1 + 12 + 4 + 3)
    steps = {cell.row: cell.run.steps for cell in cells if cell.experiment == "strategy"}
    assert set(steps) == {(strategy,) for strategy in STRATEGIES}
    assert len(set(steps.values())) == 1
    assert {run.encoder_run.key for run in runs[3:] if run.encoder_run} == {run.key for run in runs[:3]}
    assert set(scale.init_widths) <= set(scale.widths)
    assert scale.model.quantizer.code_width in scale.widths
    assert scale.model.quantizer.codebook_size in scale.sizes
    assert scale.measuring.tokens >= 16 * max(scale.sizes)
    assert min(scale.widths) < scale.model.feature_width < max(scale.widths)


def test_a_run_is_named_by_all_that_it_depends_on() -> None:
    first, other = small_scale(), small_scale(measuring=Measuring(crops=5, tokens=256, probe_train=80, probe_test=40))
    assert [run.key for run in runs_of(first.cells())] == [run.key for run in runs_of(small_scale().cells())]
    assert not {run.key for run in runs_of(first.cells())} & {run.key for run in runs_of(other.cells())}


def test_every_run_gives_its_figures_and_leaves_only_them(work: Path) -> None:
    for run in runs_of(small_scale().cells()):
        figures = set(Log(work).finished(run.key).figures)
        codebook = {"psnr_db", "ssim", "codebook_usage", "perplexity", "effective_rank", "feature_norm", "code_norm"}
        assert (codebook <= figures) == (run.encoder_run is not None)
        assert ("probe_mean" in figures) == (run.phases != ("stage1",))
        assert ("stage1_psnr_db" in figures) == (run.phases == ("stage1", "stage2"))
        assert ("refitted_psnr_db" in figures) == ("stage2" in run.phases)
    assert not list((work / "training").iterdir())
    assert len(list((work / "encoders").iterdir())) == 1


def test_strategies_differ(work: Path) -> None:
    runs = {cell.row[0]: cell.run for cell in small_scale().cells() if cell.experiment == "strategy"}
    psnrs = {strategy: Log(work).finished(run.key).figures["psnr_db"] for strategy, run in runs.items()}
    assert len(set(psnrs.values())) == 3
    assert runs[UNDISTILLED].recipe.stage2.weights.distillation == 0
    assert runs[DISTILLED].recipe.stage2.weights.distillation == 1
    assert runs[TWO_STAGE].phases == ("stage1", "stage2")


def test_finished_runs_are_not_done_again(work: Path) -> None:
    executor = InThisProcess()
    runs = runs_of(small_scale().cells())
    results = performed(runs, work, executor)
    assert set(results) == {run.key for run in runs}
    assert not executor.performed


def test_a_run_that_was_stopped_goes_on_to_the_same_figures(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runs_of(small_scale().cells())
    two_stages = next(run for run in runs if run.phases == ("stage1", "stage2"))
    again = tmp_path / "again"
    workplace(again)
    batch = Stage2.batch

    def stopped(stage: Stage2, step: int, rows: range) -> tuple[torch.Tensor, ...]:
        if step == 2:
            raise Terminated("stage 2")
        return batch(stage, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Stage2, "batch", stopped)
        with pytest.raises(Terminated):
            performed([runs[0], two_stages], again, InThisProcess())
    assert (Workplace(again).training(two_stages) / "state" / "stage2" / STATE_FILE).exists()
    assert result(again, runs[0]) is not None
    assert result(again, two_stages) is None
    executor = InThisProcess()
    results = performed([runs[0], two_stages], again, executor)
    assert [task.key for task in executor.performed] == [two_stages.key]
    undisturbed = result(work, two_stages)
    assert undisturbed is not None
    assert results[two_stages.key].figures == undisturbed.figures


def test_an_encoder_that_was_deleted_is_made_again(work: Path, tmp_path: Path) -> None:
    run = runs_of(small_scale().cells())[0]
    Log(tmp_path).keep(Log(work).finished(run.key))
    (task,) = tasks_of([run], tmp_path)
    assert unfinished([task], Log(tmp_path).results()) == [task]
    assert not unfinished(tasks_of([run], work), Log(work).results())


def test_a_damaged_result_is_told(work: Path, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(Log(work).path.read_text()[:100])
    with pytest.raises(DataError, match=r"jsonl:1: got .*; expected a task's result; delete the line to do the task"):
        Log(tmp_path).results()


def test_spreads() -> None:
    assert Spread.of([]) is None
    assert fixed(2)(Spread.of([1.0])) == "1.00"
    assert fixed(1)(Spread.of([1.0, 2.0, 3.0])) == "2.0 ± 1.0"
    assert fixed(1, factor=100)(Spread.of([0.5, 0.7])) == "60.0 ± 14.1"
    assert fixed(2, signed=True)(Spread.of([0.5])) == "+0.50"
    assert fixed(2)(None) == "–"


def test_the_page_says_what_the_results_say(made_up: Findings) -> None:
    row = "50.0 ± 35.4 | 0 ± 0 | 0.5 ± 0.4 | 0.50 ± 0.35 | 0.50 ± 0.35 | 0.50 ± 0.35 | 0.500 ± 0.354"
    text = page_text(made_up, f"{READING}\nIt collapsed.\n{END_OF_READING}", "ablations")
    assert f"| 4 | normal | {row} |" in text
    assert "| pretrained encoder |  |  |  |  |  | 55.0 ± 7.1 |" in text
    assert "| PSNR -0.50 ± 0.35 dB; with the codes refitted +0.00 ± 0.00 dB |" in text
    assert "It collapsed." in text
    assert "20 of 20 runs, 2.00 hours of one thread, 2026-01-02T03:04:00+00:00 to" in text
    assert "Run on: Elsewhere." in text
    assert "(ablations/dimension.svg)" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))


def test_a_page_of_nothing_says_so() -> None:
    text = page_text(Findings(small_scale(), {}), "", "ablations")
    assert "| 4 | normal | – | – | – | – | – | – | – |" in text
    assert "0 of 10 runs." in text


def test_plots_of_the_same_results_are_the_same_bytes(made_up: Findings, tmp_path: Path) -> None:
    first, second = (write_plots(made_up, tmp_path / name) for name in ("first", "second"))
    assert [path.name for path in first] == ["dimension.svg", "size.svg", "strategy.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all("<text" in path.read_text() for path in first)
    write_plots(Findings(small_scale(), {}), tmp_path / "nothing")


def test_a_page_without_a_place_for_the_reading_is_not_written_over(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Something else\n")
    with pytest.raises(UsageError, match="without a place for the reading"):
        reading_of(page)


def test_the_command_keeps_the_reading_and_runs_only_what_is_missing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "ablations.md"
    page.write_text(f"# Old\n\n{READING}\n\nWhat it means.\n\n{END_OF_READING}\n\nold figures\n")
    monkeypatch.setattr(ablations, "full_scale", small_scale)
    arguments = ["ablations", "-o", str(page), "--work", str(work)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--list", "--only", "strategy"])
    ablations.main()
    assert "0 of 4 runs to do, 0 steps" in capsys.readouterr().out
    assert "old figures" in page.read_text()
    monkeypatch.setattr(sys, "argv", arguments)
    ablations.main()
    text = page.read_text()
    assert "What it means." in text
    assert "old figures" not in text
    assert "10 of 10 runs" in text
    assert f"`python -m vqrae.benchmarks.studies.ablations -o {page} --work {work}`" in text
    assert (tmp_path / "ablations" / "strategy.svg").exists()


def test_worker_processes_do_the_same(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that is spawned imports its parent's program, which is pytest here.
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    workplace(tmp_path / "work")
    run = runs_of(small_scale().cells())[0]
    tasks = tasks_of([run], tmp_path / "work")
    results = runner.run(tasks, Log(tmp_path / "work"), unit="steps")
    assert Log(work).finished(run.key).figures == results[run.key].figures
    told = (tmp_path / "work" / "progress.log").read_text()
    assert " 3 of 3 steps, " in told
    assert f"minutes left: {run.name}: " in told


def test_a_finished_run_is_read_back(work: Path) -> None:
    run = runs_of(small_scale().cells())[0]
    assert runner.perform(tasks_of([run], work)[0]).figures == Log(work).finished(run.key).figures
