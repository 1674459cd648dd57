"""The command of the three uses at a size that takes seconds: every step, going on, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import tiny_config

from vqrae.benchmarks.studies.downstream import write_uses_page
from vqrae.benchmarks.studies.downstream_findings import UsesFindings
from vqrae.benchmarks.studies.downstream_scale import UsesScale, Workplace, full_scale
from vqrae.benchmarks.studies.downstream_steps import tasks_of
from vqrae.benchmarks.studies.runner import Log, Result, Task, perform_all
from vqrae.benchmarks.studies.study import END_OF_READING, READING
from vqrae.downstream.language import LanguageSize
from vqrae.downstream.tasks import Extent
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.training.config import PretrainConfig, Recipe, Stage1Config, Stage2Config, changed

pytestmark = pytest.mark.slow

PHASE = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "end_factor": 0.1, "warmup": 1}
FAST = {"phase.steps": "3", "phase.batch_size": "4", "phase.warmup": "1", "images": "16"}
EXTENT = Extent(probe_train=80, test=16, generated=8)


def small_scale() -> UsesScale:
    full = full_scale()
    encoder = {**PHASE, "encoder_learning_rate": 1e-3}
    tokenizer = Recipe(
        model=tiny_config(init="features"),
        pretrain=PretrainConfig(**encoder),
        stage1=Stage1Config(**PHASE, scene_fraction=1),
        stage2=Stage2Config(**encoder, scene_fraction=1),
    )
    small = {"language.width": "32", "language.depth": "1", "language.heads": "2"}
    return full.model_copy(
        update={
            "tokenizer": tokenizer,
            "reading": changed(full.reading, FAST | small),
            "painting": changed(full.painting, FAST | small),
            "sizes": {
                "small": LanguageSize(width=16, depth=1, heads=2),
                "large": LanguageSize(width=32, depth=1, heads=2),
            },
            "scaling_steps": 2,
            "seeds": (0,),
            "guidance": (1.0, 2.0),
            "extent": EXTENT,
            "validated": 8,
            "exports": (("onnx", "fp32"),),
            "evaluated": EXTENT,
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """All steps, done."""
    place, scale = Workplace(tmp_path_factory.mktemp("uses")), small_scale()
    log, tasks = Log(place.folder), tasks_of(scale, place)
    log.claim(scale.model_dump(mode="json"))
    told: list[str] = []

    def tell(under_way: Sequence[Task], new: Result | None) -> None:
        told.extend([new.name] if new else [])

    with ThreadPoolExecutor(1) as executor:
        results = perform_all(tasks, log, executor, 1, tell)
    assert sorted(told) == sorted(results) == sorted(task.key for task in tasks)
    return place


def test_each_step_comes_after_those_that_it_needs() -> None:
    steps = tasks_of(full_scale(), Workplace(Path("nowhere")))
    names = [step.key for step in steps]
    assert len(names) == len(set(names)) == 9 + 8 + 8 + 13
    for place, step in enumerate(steps):
        assert set(step.needs) <= set(names[:place])


def test_what_is_done_is_not_done_again(place: Workplace) -> None:
    tasks, log = tasks_of(small_scale(), place), Log(place.folder)
    before = log.results()
    with ThreadPoolExecutor(1, initializer=pytest.fail) as executor:
        assert perform_all(tasks, log, executor, 1, lambda under_way, new: None) == before


def test_a_step_gives_the_same_figures_twice(place: Workplace) -> None:
    """Measured anew, from what was trained."""
    for task in tasks_of(small_scale(), place):
        if task.key in ("probes", "reading", "pytorch", "guidance"):
            assert task.work() == Log(place.folder).finished(task.key).figures


def test_a_bundle_does_what_pytorch_does(place: Workplace) -> None:
    findings = UsesFindings(small_scale(), Log(place.folder).results())
    (bundle,) = findings.bundles()
    assert bundle.figures["token_agreement"] == 1.0
    assert bundle.gate == "pass"
    assert max(map(abs, bundle.changes.values())) <= 1 / EXTENT.test


def test_the_page(place: Workplace, tmp_path: Path) -> None:
    page = tmp_path / "uses.md"
    page.write_text(f"{READING}\n\nRead by a person.\n\n{END_OF_READING}\n")
    write_uses_page(small_scale(), place, page, "vqrae.benchmarks.studies.downstream")
    text = page.read_text()
    assert "Read by a person." in text
    for title in ("What holds", "Understanding", "Generation", "Scaling", "Through the bundles", "Time"):
        assert f"\n## {title}\n" in text
    assert "| onnx | fp32 | pass | 100.00% |" in text
    for name in ("generated-test", "generated-held-out", "reconstructed", "asked"):
        assert f"](uses/{name}.png)" in text
        with Image.open(tmp_path / "uses" / f"{name}.png") as picture:
            assert picture.width > 400
    assert (tmp_path / "uses" / "scaling.svg").exists()


def test_another_scale_is_refused(place: Workplace) -> None:
    Log(place.folder).claim(small_scale().model_dump(mode="json"))
    with pytest.raises(UsageError, match=r"got the work of other settings; expected that of settings\.json"):
        Log(place.folder).claim(full_scale().model_dump(mode="json"))


def test_a_page_of_unfinished_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no result of scenes; expected a finished task"):
        write_uses_page(small_scale(), Workplace(tmp_path), tmp_path / "uses.md", "vqrae.benchmarks.studies.downstream")
