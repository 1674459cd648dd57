from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from vqrae.training.losses.adversarial import Adversary, LeCam, PatchDiscriminator, discriminator_loss, generator_loss

Logits = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8).map(torch.tensor)


def images(seed: int) -> Tensor:
    return (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1).requires_grad_()


def adversary(**options: object) -> Adversary:
    torch.manual_seed(0)
    return Adversary(PatchDiscriminator(channels=8), **options)


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([[-3.0], [0.25]])
    # ½ · (mean(0, ½, 2) + mean(0, 1¼))
    assert discriminator_loss(real, fake).item() == pytest.approx((2.5 / 3 + 1.25 / 2) / 2)
    assert generator_loss(fake).item() == pytest.approx(2.75 / 2)


@given(Logits, Logits)
def test_hinge_is_zero_only_beyond_the_margins(real: Tensor, fake: Tensor) -> None:
    loss = discriminator_loss(real, fake)
    assert loss >= 0
    assert (loss == 0) == bool((real >= 1).all() and (fake <= -1).all())
    torch.testing.assert_close(loss, discriminator_loss(-fake, -real), msg="real and fake are mirrored")


@given(Logits, Logits, st.floats(-5, 5), st.floats(-5, 5))
def test_lecam_is_the_square_of_what_the_means_are_beyond_the_anchors(
    real: Tensor, fake: Tensor, real_anchor: float, fake_anchor: float
) -> None:
    lecam = LeCam()
    lecam.real.fill_(real_anchor)
    lecam.fake.fill_(fake_anchor)
    above = max(0.0, real.double().mean().item() - lecam.fake.item())
    below = max(0.0, lecam.real.item() - fake.double().mean().item())
    assert lecam(real, fake).item() == pytest.approx(above**2 + below**2, rel=1e-4, abs=1e-4)


def test_lecam_by_hand() -> None:
    lecam = LeCam()
    lecam.real.fill_(1.0)
    lecam.fake.fill_(-0.5)
    real, fake = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.0, -1.0], requires_grad=True)
    value = lecam(real, fake)
    assert value.item() == (2 + 0.5) ** 2 + (1 + 0.5) ** 2
    value.backward()
    assert real.grad.tolist() == [2.5, 2.5]
    assert fake.grad.tolist() == [-1.5, -1.5]
    assert (lecam.real.item(), lecam.fake.item()) == (1, -0.5), "the loss alone moves no anchor"


def test_anchors_are_moving_averages_from_zero() -> None:
    lecam = LeCam(decay=0.75)
    lecam.update(torch.tensor([1.0, 3.0]), torch.tensor([-4.0]))
    assert (lecam.real.item(), lecam.fake.item()) == (0.5, -1)
    lecam.update(torch.tensor([4.0]), torch.tensor([0.0, 2.0]))
    assert (lecam.real.item(), lecam.fake.item()) == (0.75 * 0.5 + 1, -0.75 + 0.25)


def test_the_default_decay_is_titoks() -> None:
    lecam = LeCam()
    lecam.update(torch.ones(3), -torch.ones(3))
    torch.testing.assert_close((lecam.real, lecam.fake), (torch.tensor(0.001), torch.tensor(-0.001)))


def test_anchors_follow_the_mean_over_processes() -> None:
    others = iter([torch.tensor(7.0), torch.tensor(-5.0)])  # what another process had, first of the originals
    lecam = LeCam(decay=0.5, mean=lambda own: (own + next(others)) / 2)
    lecam.update(torch.tensor([1.0]), torch.tensor([-1.0]))
    assert (lecam.real.item(), lecam.fake.item()) == (0.5 * 4, 0.5 * -3)


def test_the_tokenizers_term_leaves_the_discriminator_alone() -> None:
    model, decoded = adversary(), images(0)
    loss = model.generator_loss(decoded)
    loss.backward()
    torch.testing.assert_close(loss, -model.discriminator(decoded).mean())
    assert decoded.grad.any()
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_the_discriminators_terms_leave_the_images_alone() -> None:
    model, decoded, pixels = adversary(), images(0), images(1)
    model.lecam.real.fill_(50.0)
    real, fake = model.discriminator(pixels), model.discriminator(decoded)
    terms = model(decoded, pixels)
    assert list(terms) == ["discriminator", "lecam"]
    torch.testing.assert_close(terms["discriminator"], discriminator_loss(real, fake), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        terms["lecam"], real.mean().clamp(min=0).square() + (50 - fake.mean()).square(), atol=1e-3, rtol=1e-5
    )
    for term in terms.values():
        model.zero_grad()
        term.backward(retain_graph=True)
        assert all(weight.grad is not None for weight in model.parameters())
    assert decoded.grad is None
    assert pixels.grad is None


def test_training_moves_the_anchors_and_evaluation_does_not() -> None:
    model, decoded, pixels = adversary(decay=0.0), images(0), images(1)
    model.eval()
    model(decoded, pixels)
    assert (model.lecam.real.item(), model.lecam.fake.item()) == (0, 0)
    model.train()
    before = model(decoded, pixels)["lecam"]
    torch.testing.assert_close(
        before,
        model.discriminator(pixels).mean().clamp(min=0).square()
        + (-model.discriminator(decoded).mean()).clamp(min=0).square(),
        atol=1e-6,
        rtol=1e-4,
    )
    torch.testing.assert_close(model.lecam.real, model.discriminator(pixels).mean(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model.lecam.fake, model.discriminator(decoded).mean(), atol=1e-6, rtol=1e-4)


def test_float32_under_autocast() -> None:
    model, decoded, pixels = adversary().eval(), images(0), images(1)
    plain = [model.generator_loss(decoded), *model(decoded, pixels).values()]
    with torch.autocast("cpu", torch.bfloat16):
        cast = [model.generator_loss(decoded), *model(decoded, pixels).values()]
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(plain, cast, strict=True))


def steps(model: Adversary, optimizer: torch.optim.Optimizer, numbers: range) -> list[dict[str, Tensor]]:
    terms = []
    for number in numbers:
        terms.append(model(images(number), images(100 + number)))
        optimizer.zero_grad()
        (terms[-1]["discriminator"] + 0.001 * terms[-1]["lecam"]).backward()
        optimizer.step()
    return terms


def test_a_restored_adversary_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model = adversary(decay=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps(model, optimizer, range(3))
    save_file(model.state_dict(), tmp_path / "state.safetensors")
    straight_on = steps(model, optimizer, range(3, 6))

    restored = Adversary(PatchDiscriminator(channels=8), decay=0.9)
    restored.load_state_dict(load_file(tmp_path / "state.safetensors"))
    resumed = steps(restored, torch.optim.SGD(restored.parameters(), lr=0.1), range(3, 6))
    for expected, got in zip(straight_on, resumed, strict=True):
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert all(torch.equal(tensor, restored.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert {"lecam.real", "lecam.fake"} <= set(model.state_dict())
    assert model.lecam.real != 0
