from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from phases import adversarial, losses, same, snapshot, stage1, stage2

from vqrae.runtimes.errors import UsageError
from vqrae.training.learner import Learner
from vqrae.training.loop import train
from vqrae.training.phase import Phase
from vqrae.training.processes import Processes


def stepped(phase: Phase, steps: int = 2) -> Learner:
    learner = Learner(phase, Processes())
    for step in range(steps):
        learner.step(step)
    return learner


def test_an_accumulated_step_is_the_whole_batchs(folder: Path) -> None:
    whole, parts = stepped(stage2(folder)), stepped(stage2(folder, accumulation=4))
    for name, tensor in whole.phase.module.state_dict().items():
        if not name.endswith("k_proj.bias"):  # softmax does not see it: AdamW makes steps of its rounding noise
            torch.testing.assert_close(parts.phase.module.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_that_does_not_divide(folder: Path) -> None:
    with pytest.raises(UsageError, match="batch: got 4 images; expected a multiple of"):
        stepped(stage2(folder, accumulation=3))


@pytest.mark.parametrize("network", ["siglip", "dinov2", "internvit"])
def test_checkpointed_activations_give_the_same_weights(folder: Path, network: str) -> None:
    kept = stepped(stage2(folder, network))
    again = stepped(stage2(folder, network, activation_checkpointing=True))
    assert same(snapshot(again.phase.module), snapshot(kept.phase.module))


def test_checkpointed_activations_are_not_kept(folder: Path) -> None:
    """Counted where autograd saves tensors: with checkpointing hardly any is left from inside the blocks."""
    counts = []
    for checkpointing in (False, True):
        phase = stage2(folder, activation_checkpointing=checkpointing)
        Learner(phase, Processes())
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            losses(phase)
        counts.append(sum(saved))
    assert counts[1] < counts[0] / 2


@pytest.mark.slow
# torch's compiler imports what torch retires, and looks at the gradients of tensors that have none.
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_blocks_give_nearly_the_same_weights(folder: Path) -> None:
    plain, compiled = stepped(stage1(folder)), stepped(stage1(folder, compile=True))
    for name, tensor in plain.phase.module.state_dict().items():
        torch.testing.assert_close(compiled.phase.module.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_the_average_follows_the_weights(folder: Path) -> None:
    learner = Learner(stage1(folder, ema_decay=0.75), Processes())
    name = "decoder.head.weight"
    weight = learner.phase.module.decoder.head.weight
    expected = weight.detach().clone()
    for step in range(3):
        learner.step(step)
        expected = 0.75 * expected + 0.25 * weight.detach()
    torch.testing.assert_close(learner.result()[name], expected)
    assert not torch.equal(learner.result()[name], weight)
    assert not any(key.startswith("encoder.") for key in learner.average.tensors), "what is frozen is its own average"


def test_a_phase_results_in_the_average(folder: Path, tmp_path: Path) -> None:
    phase = stage1(folder, ema_decay=0.9)
    state = train(phase, tmp_path, "test")
    assert state.keys() == phase.module.state_dict().keys()
    assert not torch.equal(state["decoder.head.weight"], phase.module.decoder.head.weight)
    assert torch.equal(
        state["encoder.network.embeddings.patch_embedding.weight"],
        phase.module.encoder.network.embeddings.patch_embedding.weight,
    )


def test_the_discriminator_joins_at_its_step(folder: Path) -> None:
    learner = Learner(adversarial(folder), Processes())
    discriminator = snapshot(learner.phase.adversary)
    seen = [learner.step(step) for step in range(4)]
    assert [set(terms) & {"adversarial", "discriminator", "lecam"} for terms in seen[:2]] == [set(), set()]
    for terms in seen[2:]:
        assert {"adversarial", "discriminator", "lecam", "discriminator_gradient_norm"} <= set(terms)
    moved = {
        name
        for name, tensor in learner.phase.adversary.state_dict().items()
        if not torch.equal(tensor, discriminator[name])
    }
    assert moved == set(discriminator) - {name for name in discriminator if "blur" in name}


def test_adversarial_terms_are_weighted(folder: Path) -> None:
    def terms(**weights: float) -> dict[str, Any]:
        phase = adversarial(folder, discriminator_start=0)
        phase.config = phase.config.model_copy(update={"weights": phase.config.weights.model_copy(update=weights)})
        return Learner(phase, Processes()).step(0)

    plain, weighted = terms(adversarial=1.0, lecam=1.0), terms(adversarial=2.0, lecam=0.5)
    assert weighted["adversarial"] == pytest.approx(2 * plain["adversarial"])
    assert weighted["lecam"] == pytest.approx(0.5 * plain["lecam"])


def test_the_adversarial_term_moves_the_tokenizer(folder: Path) -> None:
    results = []
    for weight in (0.0, 10.0):
        phase = adversarial(folder, discriminator_start=0, ema_decay=0)
        phase.config = phase.config.model_copy(
            update={"weights": phase.config.weights.model_copy(update={"adversarial": weight})}
        )
        results.append(snapshot(stepped(phase).phase.module))
    assert not same(*results)


def test_rates_end_where_each_group_is_to_end(folder: Path) -> None:
    phase = stage2(folder, warmup=0, steps=4, end_factor=0.5, encoder_end_factor=1.0)
    learner = stepped(phase, 4)
    encoder, rest = (group["lr"] for group in learner.optimizers["generator"].param_groups)
    assert encoder == 1e-3, "constant"
    assert 0.5e-3 < rest < 0.7e-3
