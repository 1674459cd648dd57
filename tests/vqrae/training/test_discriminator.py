from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vqrae.training.losses.adversarial import PatchDiscriminator, _BlurPool


def small() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(channels=8)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((32, 32), (4, 4)), ((64, 64), (8, 8)), ((48, 160), (6, 16)), ((256, 256), (16, 16)), ((9, 15), (1, 1))],
)
def test_one_logit_per_patch(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert small()(torch.rand(2, 3, *size)).shape == (2, 1, *grid)


def test_widths_are_titoks() -> None:
    model = PatchDiscriminator()
    assert [stage.convolution.out_channels for stage in model.stages] == [128, 256, 512]
    assert [stage.norm.num_groups for stage in model.stages] == [32, 32, 32]
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 1, 4, 4)


def test_pixels_are_scaled_to_zero_to_one() -> None:
    model, pixels = small(), torch.rand(1, 3, 32, 32) * 2 - 1
    seen = []
    model.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pixels)
    torch.testing.assert_close(seen[0], (pixels + 1) / 2)


def test_a_batchs_logits_are_those_of_its_images() -> None:
    model, pixels = small(), torch.rand(3, 3, 32, 32)
    one_by_one = torch.cat([model(image[None]) for image in pixels])
    torch.testing.assert_close(model(pixels), one_by_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [32, 64])
def test_every_weight_and_every_pixel_gets_a_gradient(size: int) -> None:
    model, pixels = small(), torch.rand(2, 3, size, size, requires_grad=True)
    model(pixels).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert pixels.grad.abs().sum((0, 1)).count_nonzero() > 0.9 * size * size


def test_blur_pool_keeps_flat_areas_and_removes_the_finest_stripes() -> None:
    pool = _BlurPool(2)
    flat = pool(torch.full((1, 2, 8, 8), 3.0))
    torch.testing.assert_close(flat[..., 1:-1, 1:-1], torch.full((1, 2, 2, 2), 3.0))
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 2, 8, 8)
    torch.testing.assert_close(pool(stripes)[..., 1:-1, 1:-1], torch.zeros(1, 2, 2, 2))


def test_blur_pool_by_hand() -> None:
    """1-3-3-1 over 8, in each direction, a row of zeros beyond the edge."""
    line = torch.tensor([1.0, 2.0, 4.0, 8.0])
    image = torch.outer(line, line)[None, None]
    expected = torch.tensor([(3 * 1 + 3 * 2 + 4) / 8, (2 + 3 * 4 + 3 * 8) / 8])
    torch.testing.assert_close(_BlurPool(1)(image)[0, 0], torch.outer(expected, expected))


def test_it_learns_to_tell_noise_from_flat_images() -> None:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def pair() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(4, 3, 32, 32, generator=generator), torch.rand(4, 3, 1, 1, generator=generator).expand(
            -1, -1, 32, 32
        )

    for _ in range(60):
        real, fake = (model(images) for images in pair())
        optimizer.zero_grad()
        (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
        optimizer.step()
    real, fake = (model(images) for images in pair())
    assert real.mean() > 0.5 > -0.5 > fake.mean()
