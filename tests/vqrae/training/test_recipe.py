from __future__ import annotations

import pytest

from vqrae.runtimes.errors import UsageError
from vqrae.training.config import recipe

# Preset -> batch, steps and rates of stage 1, of stage 2: the paper's table.
PAPER = {
    "siglip2-so400m-256": (1024, 100_000, 70_000),
    "siglip2-so400m-512": (1024, 100_000, 70_000),
    "internvit-300m-448": (768, 45_000, 60_000),
}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_recipes(name: str) -> None:
    found = recipe(name)
    batch, *steps = PAPER[name]
    assert found.pretrain is None
    for phase, count, peak, end in ((found.stage1, steps[0], 4e-4, 1e-4), (found.stage2, steps[1], 1e-4, 1e-5)):
        assert (phase.batch_size, phase.steps, phase.learning_rate) == (batch, count, peak)
        assert phase.learning_rate * phase.end_factor == pytest.approx(end)
        assert (phase.betas, phase.weight_decay, phase.warmup) == ((0.9, 0.999), 1e-4, 2000)
        assert (phase.clip_norm, phase.precision) == (1.0, "bf16")
    assert (found.stage1.perceptual, found.stage2.perceptual) == ("lpips-convnext", "lpips-convnext")
    assert found.stage1.discriminator_start is None, "no discriminator in stage 1"
    assert found.stage2.discriminator_start == (30_000 if name == "internvit-300m-448" else 50_000)
    assert found.stage2.discriminator_learning_rate * found.stage2.discriminator_end_factor == pytest.approx(1e-5)
    assert found.stage2.encoder_end_factor == 1, "its rate is the end rate of the others all along"
    weights = found.stage2.weights
    assert (weights.perceptual, weights.adversarial, weights.lecam) == (1.1, 0.1, 0.001)
    assert found.stage2.encoder_learning_rate == 1e-5
    assert found.stage2.weights.distillation == 1


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"got 'tiney'; .*did you mean tiny\?"):
        recipe("tiney")


def test_settings_change_a_recipe() -> None:
    found = recipe("tiny").changed(
        {"stage1.steps": "7", "model.quantizer.init": "normal", "stage2.weights.pixel": "2.5", "pretrain": "null"}
    )
    assert (found.stage1.steps, found.model.quantizer.init, found.stage2.weights.pixel) == (7, "normal", 2.5)
    assert found.pretrain is None
    assert recipe("tiny").changed({}) == recipe("tiny")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stage1.step", "7", r"setting: got 'stage1.step'; .*did you mean stage1.steps\?"),
        ("stage3.steps", "7", r"did you mean stage[12].steps\?"),
        ("stage1.steps.more", "7", "setting: got 'stage1.steps.more'"),
        ("stage1.steps", "many", r"setting stage1.steps: got 'many'; expected .*integer"),
        ("stage1.steps", "0", r"setting stage1.steps: got 0; expected .*greater than 0"),
        ("stage2.perceptual", "vgg", r"setting stage2.perceptual: got 'vgg'; expected .*'teacher'"),
    ],
)
def test_a_setting_that_cannot_be(key: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        recipe("tiny").changed({key: value})
    assert "\n" not in str(caught.value)
