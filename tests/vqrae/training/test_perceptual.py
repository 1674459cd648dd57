from __future__ import annotations

import pytest
import torch
from tiny_models import SIZE, tiny_config, tiny_model
from torch import Tensor
from torch.nn import functional as F

from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import UsageError
from vqrae.training.losses.perceptual import TeacherPerceptual

FAMILIES = ["siglip", "dinov2", "dinov2-swiglu", "internvit", "internvit-qk-norm"]


def pixels(seed: int, size: int = SIZE, scale: float = 1.0) -> Tensor:
    return (torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * scale


def frozen(network: str = "siglip") -> Encoder:
    return tiny_model(network).encoder.requires_grad_(False)


@pytest.fixture(params=FAMILIES)
def teacher(request: pytest.FixtureRequest) -> Encoder:
    return frozen(request.param)


def test_it_is_the_mean_over_depths_of_the_cosine_distance(teacher: Encoder) -> None:
    loss = TeacherPerceptual(teacher)
    assert loss.depths == [1], "of two blocks; after the second come the features"
    first, second = pixels(0), pixels(1)
    pairs = zip(teacher.hidden_states(first, [1]), teacher.hidden_states(second, [1]), strict=True)
    by_cosine = torch.stack([(2 - 2 * F.cosine_similarity(a, b, dim=-1)).mean() for a, b in pairs]).mean()
    torch.testing.assert_close(loss(first, second), by_cosine, atol=1e-5, rtol=1e-5)
    assert loss(first, first).item() == 0


def test_the_gradient_reaches_the_decoded_pixels_only(teacher: Encoder) -> None:
    decoded, original = pixels(0, scale=1.5).requires_grad_(), pixels(1).requires_grad_()
    TeacherPerceptual(teacher)(decoded, original).backward()
    assert decoded.grad is not None
    assert decoded.grad.isfinite().all()
    assert (decoded.grad[decoded.detach().abs() > 1] != 0).all(), "what lies outside [-1, 1] is pulled back"
    assert original.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_pixels_of_another_size(teacher: Encoder) -> None:
    decoded = pixels(0, size=48).requires_grad_()
    TeacherPerceptual(teacher)(decoded, pixels(1, size=48)).backward()
    assert (decoded.grad != 0).any()


def test_the_last_target_is_the_distillations() -> None:
    teacher = frozen()
    loss = TeacherPerceptual(teacher)
    targets = loss.targets(pixels(1))
    assert torch.equal(targets[-1], teacher(pixels(1)))
    assert not any(target.requires_grad for target in targets)
    assert torch.equal(loss.distance(pixels(0), targets), loss(pixels(0), pixels(1)))


@pytest.mark.parametrize(("levels", "depths"), [(1, []), (2, [1]), (4, [1]), (99, [1])])
def test_depths_are_evenly_spaced_blocks(levels: int, depths: list[int]) -> None:
    assert TeacherPerceptual(frozen(), levels).depths == depths


@pytest.mark.parametrize(("blocks", "depths"), [(3, [1, 2]), (12, [3, 6, 9]), (24, [6, 12, 18]), (27, [7, 14, 21])])
def test_depths_of_the_presets(blocks: int, depths: list[int]) -> None:
    teacher = frozen()
    teacher.network.config.num_hidden_layers = blocks
    assert TeacherPerceptual(teacher).depths == depths


def test_the_teacher_is_held_and_not_owned() -> None:
    teacher = frozen()
    loss = TeacherPerceptual(teacher)
    assert loss.teacher is teacher
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


def test_it_sees_without_drop_path_whatever_its_owner_switches_on() -> None:
    config = tiny_config("dinov2").encoder
    network = config.network | {"drop_path_rate": 0.9}
    teacher = Encoder(config.model_copy(update={"network": network})).requires_grad_(False)
    loss = TeacherPerceptual(teacher)
    teacher.train()
    assert loss(pixels(0), pixels(0)).item() == 0


def test_a_teacher_that_learns_is_refused() -> None:
    teacher = frozen()
    loss = TeacherPerceptual(teacher)
    teacher.unfreeze()
    with pytest.raises(UsageError, match="teacher: got trainable weights; expected a frozen encoder"):
        loss(pixels(0), pixels(1))


def test_no_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="levels: got 0"):
        TeacherPerceptual(frozen(), 0)


def test_a_teacher_in_bfloat16_is_compared_in_float32() -> None:
    loss = TeacherPerceptual(frozen().bfloat16())
    value = loss(pixels(0).bfloat16(), pixels(1).bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, TeacherPerceptual(frozen())(pixels(0), pixels(1)), atol=0.02, rtol=0.02)


def test_under_autocast() -> None:
    loss = TeacherPerceptual(frozen())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(pixels(0), pixels(1))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(pixels(0), pixels(1)), atol=0.02, rtol=0.02)
