"""The command of the three uses at a size that takes seconds: every step, going on, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import tiny_config

from vqrae.benchmarks.studies.ablations.page import END_OF_READING, READING
from vqrae.benchmarks.studies.downstream import steps as uses_steps
from vqrae.benchmarks.studies.downstream.findings import UsesFindings
from vqrae.benchmarks.studies.downstream.page import write_uses_page
from vqrae.benchmarks.studies.downstream.scale import UsesScale, full_scale
from vqrae.benchmarks.studies.downstream.schedule import perform_all
from vqrae.benchmarks.studies.downstream.steps import perform, steps_of
from vqrae.benchmarks.studies.downstream.workplace import StepResult, Workplace
from vqrae.downstream.language import LanguageSize
from vqrae.downstream.tasks import Extent
from vqrae.downstream.teaching import changed
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.training.config import PhaseConfig, Recipe

pytestmark = pytest.mark.slow

PHASE = PhaseConfig(steps=2, batch_size=4, learning_rate=1e-3, end_factor=0.1, warmup=1, scene_fraction=1)
FAST = {"phase.steps": "3", "phase.batch_size": "4", "phase.warmup": "1", "images": "16"}
EXTENT = Extent(probe_train=80, test=16, generated=8)


def small_scale() -> UsesScale:
    full = full_scale()
    encoder = PHASE.model_copy(update={"encoder_learning_rate": 1e-3})
    tokenizer = Recipe(model=tiny_config(init="features"), pretrain=encoder, stage1=PHASE, stage2=encoder)
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
    place.claim(scale)
    told: list[str] = []

    def tell(under_way: Sequence[str], new: StepResult | None) -> None:
        told.extend([new.name] if new else [])

    with ThreadPoolExecutor(1) as executor:
        results = perform_all(steps_of(scale), scale, place.folder, executor, 1, tell)
    assert sorted(told) == sorted(results) == sorted(step.name for step in steps_of(scale))
    return place


def test_each_step_comes_after_those_that_it_needs() -> None:
    steps = steps_of(full_scale())
    names = [step.name for step in steps]
    assert len(names) == len(set(names)) == 9 + 8 + 8 + 13
    for place, step in enumerate(steps):
        assert set(step.needs) <= set(names[:place])


def test_what_is_done_is_not_done_again(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    step = next(step for step in steps_of(small_scale()) if step.name == "reading")
    monkeypatch.setattr(uses_steps, "vqa_task", None)
    assert perform(step, small_scale(), place.folder) == place.finished("reading")


def test_a_step_gives_the_same_figures_twice(place: Workplace) -> None:
    """Measured anew, from what was trained."""
    scale = small_scale()
    for name in ("probes", "reading", "pytorch", "guidance"):
        step = next(step for step in steps_of(scale) if step.name == name)
        assert step.work(scale, place) == place.finished(name).figures


def test_a_bundle_does_what_pytorch_does(place: Workplace) -> None:
    findings = UsesFindings(small_scale(), {step.name: place.finished(step.name) for step in steps_of(small_scale())})
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
    place.claim(small_scale())
    with pytest.raises(UsageError, match=r"got another scale's work; expected that of scale\.json"):
        place.claim(full_scale())


def test_a_page_of_unfinished_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no such file; expected a step's result"):
        write_uses_page(small_scale(), Workplace(tmp_path), tmp_path / "uses.md", "vqrae.benchmarks.studies.downstream")
