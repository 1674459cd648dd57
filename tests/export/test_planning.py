"""A whole search on the real runtime, of a small model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import random_images

from vqrae.benchmarks.report.plan_page import write_plan_pages
from vqrae.calibration.images import CalibrationImages, pixels_sha256
from vqrae.calibration.plan import PrecisionPlan
from vqrae.checkpoint import open_checkpoint
from vqrae.cli.app import main
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.planning import TRIALS_FILE, GraphPlanning, search_plan
from vqrae.export.speed import GraphSpeed
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.export.trials import GraphTrials
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import DataError, GateFailure
from vqrae.runtimes.precision import Budget

MEASURED = random_images(9).numpy()[6:]


@pytest.fixture(scope="module")
def int8_builder(shallow_checkpoint: Path) -> Iterator[BundleBuilder]:
    images = random_images(6).numpy()
    observed = CalibrationImages(
        names=tuple(map(str, range(6))),
        images=images,
        sha256=tuple(map(pixels_sha256, images)),
        seed=0,
        duplicates=0,
    )
    opened = VqraeTokenizer(open_checkpoint(str(shallow_checkpoint)))
    with BundleBuilder(opened, parity_images(None, (32, 32), 4), lambda _: None, observed) as builder:
        yield builder


@pytest.fixture(scope="module")
def searched(
    int8_builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PrecisionPlan, list[GraphPlanning]]:
    folder = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqrae.export.trials.ROUNDS", 6)
        patch.setattr("vqrae.export.trials.WARMUP", 0)
        return folder, *search_plan(int8_builder, target("onnx", "int8"), MEASURED, folder)


@pytest.mark.slow
def test_a_plan_names_every_layer_and_keeps_the_budget(
    searched: tuple[Path, PrecisionPlan, list[GraphPlanning]],
) -> None:
    _, plan, graphs = searched
    assert [graph.graph for graph in graphs] == ["encode", "decode"]
    chosen = {layer for graph in graphs for layer in graph.found.best.int8}
    assert {layer for layer, precision in plan.layers.items() if precision == "int8"} == chosen
    assert len(plan.layers) == sum(len(graph.layers) for graph in graphs) + 1 == 15, "scores are not tried"
    for graph in graphs:
        assert {trial.graph for trial in graph.trials} == {graph.graph}
        assert sum(row.share for row in graph.layers) == pytest.approx(1)
        alone = {trial.int8: trial for trial in graph.trials}
        assert all(row.damage_alone == alone[row.layers].damage for row in graph.layers)


def test_a_search_that_was_stopped_goes_on_and_tries_nothing_twice(
    int8_builder: BundleBuilder,
    searched: tuple[Path, PrecisionPlan, list[GraphPlanning]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, plan, graphs = searched
    monkeypatch.setattr(GraphTrials, "make", lambda self, layers: pytest.fail("it was tried before"))
    assert search_plan(int8_builder, target("onnx", "int8"), MEASURED, folder) == (plan, graphs)


def test_a_log_of_other_images_is_refused(
    int8_builder: BundleBuilder, searched: tuple[Path, PrecisionPlan, list[GraphPlanning]]
) -> None:
    folder, *_ = searched
    with pytest.raises(DataError, match=rf"{TRIALS_FILE} images to measure on: got \w+; expected \w+; ask"):
        search_plan(int8_builder, target("onnx", "int8"), MEASURED[:2], folder)


def test_a_budget_that_no_plan_can_keep(
    int8_builder: BundleBuilder, searched: tuple[Path, PrecisionPlan, list[GraphPlanning]]
) -> None:
    """What was tried is enough to know it."""
    folder, *_ = searched
    impossible = replace(target("onnx", "int8"), budget=Budget(max_source_psnr_drop_db=-10))
    with pytest.raises(GateFailure, match=r"plan of encode: got at best excess distortion .*; expected what"):
        search_plan(int8_builder, impossible, MEASURED, folder)


def test_the_pages_show_every_layer_and_have_the_same_bytes_again(
    searched: tuple[Path, PrecisionPlan, list[GraphPlanning]], tmp_path: Path
) -> None:
    _, plan, graphs = searched
    page, *plots = write_plan_pages(graphs, tmp_path, "The plan")
    text = page.read_text()
    tried = plan.layers.keys() - {"quantizer.scores"}
    assert all(f"| {layer} | {plan.layers[layer]} |" in text for layer in tried)
    step = re.compile(r"\| (INT8 everywhere|the plan to begin with|\S+ to (float|INT8 again))")
    steps = [line for line in text.splitlines() if step.match(line)]
    assert len(steps) == sum(len(graph.found.walked) for graph in graphs)
    assert sum(": the plan |" in step for step in steps) == len(graphs)
    before = [plot.read_bytes() for plot in plots]
    write_plan_pages(graphs, tmp_path, "The plan")
    assert [plot.read_bytes() for plot in plots] == before
    assert all(b"<svg" in content for content in before)
    assert not np.isnan([row.damage_alone for graph in graphs for row in graph.layers]).any()


@pytest.mark.slow
def test_the_command_leaves_a_plan_its_pages_and_a_proven_bundle(
    searched: tuple[Path, PrecisionPlan, list[GraphPlanning]],
    shallow_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but the search itself, which the other tests make."""
    speed = GraphSpeed(int8_ms=1.0, float_ms=1.5, float_precision="fp32", speedup=1.5)
    monkeypatch.setattr("vqrae.export.planning.search_plan", lambda *_: searched[1:])
    monkeypatch.setattr("vqrae.export.build.graph_speeds", lambda *_: {"encode": speed, "decode": speed})
    np.save(tmp_path / "images.npy", random_images(9).numpy())
    output = tmp_path / "plan"
    output.mkdir()
    images = ("--calibration", str(tmp_path / "images.npy"), "--calibration-images", "6", "--measured", "3")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(shallow_checkpoint), "-o", str(output), *images, "--images", "4", "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert PrecisionPlan.read(output / "plan.json") == searched[1] == PrecisionPlan.model_validate(printed["plan"])
    assert {Path(file).name for file in printed["files"]} == {"plan.json", "plan.md", "sensitivity.svg", "frontier.svg"}
    assert printed["verify"]["gate"] == "pass"
    bundle = Bundle.open(printed["verify"]["bundle"])
    assert PrecisionPlan.read(bundle.path / "plan.json") == searched[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--calibration: got nothing; expected images, because of int8"),
        (["--calibration", "x", "--format", "coreml"], "got 'coreml'; expected one of onnx, openvino"),
        (
            ["--calibration", "x", "--format", "tensorrt-rtx"],
            "--format of a plan: got 'tensorrt-rtx'; expected one of onnx, openvino",
        ),
        (
            ["--calibration", "x", "--plan", "nowhere.json"],
            "nowhere.json: got No such file or directory; expected a plan",
        ),
        (["--calibration", "x", "--min-agreement", "97"], "--min-agreement: got '97'; expected a share from 0 to 100%"),
    ],
)
def test_the_command_refuses_before_any_work(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("vqrae.checkpoint.open_checkpoint", lambda source: pytest.fail("the weights were read"))
    with pytest.raises(SystemExit) as ended:
        main(["plan", "tiny", "-o", str(tmp_path / "plan"), *arguments])
    assert ended.value.code in (2, 5)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "plan").exists()
