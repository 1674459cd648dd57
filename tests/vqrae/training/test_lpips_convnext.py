from __future__ import annotations

import sys
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from vqrae.model.encoders.library import IMAGENET_MEAN, IMAGENET_STD
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.training.losses.lpips_convnext import LpipsConvNext


class MeanDistance(nn.Module):
    """In LPIPS's place: per image, the mean absolute difference times a weight, shaped as LPIPS's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.weight * (first - second).abs().mean((1, 2, 3), keepdim=True)


class ChannelMeans(nn.Module):
    """In the ConvNeXt's place: three logits, with dropout, which must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.dropout = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 224, 224)
        return self.dropout(self.weight * images.mean((2, 3)))


def flat(*values: float) -> Tensor:
    """One image (1, 3, 40, 40) of one color."""
    return torch.tensor(values).view(1, 3, 1, 1).expand(1, 3, 40, 40)


def stand_in() -> LpipsConvNext:
    return LpipsConvNext(MeanDistance(), ChannelMeans())


def test_by_hand() -> None:
    """LPIPS's place sees [-1, 1]: 3 · mean(0.4, 0, 1.2). The logits see [0, 1] over ImageNet's deviation."""
    value = stand_in()(flat(0.5, 0, -1), flat(0.1, 0, 0.2))
    logits = [(0.4 / 2 / IMAGENET_STD[0]) ** 2, 0, (1.2 / 2 / IMAGENET_STD[2]) ** 2]
    torch.testing.assert_close(value, torch.tensor((3 * 1.6 / 3 + 0.1 * sum(logits) / 3) / 1.1))
    assert value.dtype == torch.float32


def test_the_logits_are_of_pixels_with_imagenets_normalization() -> None:
    middle = [2 * mean - 1 for mean in IMAGENET_MEAN]
    torch.testing.assert_close(stand_in()._logits(flat(*middle)), torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_the_resize_sees_every_pixel() -> None:
    """Every fourth column white, the rest black: a quarter of the light, where plain bilinear would see none."""
    columns = torch.tensor([1.0, -1.0, -1.0, -1.0]).repeat(224).expand(1, 3, 896, 896)
    expected = (0.25 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(stand_in()._logits(columns), expected[None], atol=0.01, rtol=0)


def test_the_mean_is_over_images() -> None:
    loss, a, b = stand_in(), flat(0.5, 0, -1), flat(0.1, 0, 0.2)
    torch.testing.assert_close(loss(torch.cat([a, b]), torch.cat([b, b])), loss(a, b) / 2)


def test_the_gradient_reaches_the_decoded_pixels_only() -> None:
    loss = stand_in()
    decoded, pixels = (torch.rand(2, 3, 40, 40, requires_grad=True) for _ in range(2))
    loss(decoded, pixels).backward()
    assert (decoded.grad != 0).all()
    assert pixels.grad is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_both_networks_stay_in_evaluation_mode() -> None:
    owner = nn.ModuleList([stand_in()]).train()
    assert not any(module.training for module in owner[0].modules())


def test_float32_under_autocast() -> None:
    loss = stand_in()
    decoded, pixels = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(decoded.bfloat16(), pixels), loss(decoded.bfloat16().float(), pixels))


REMEDY = (
    r"lpips and torchvision: got not loadable \(.+\); install them with `pip install 'vqrae\[lpips\]'`, torchvision"
)


def test_without_them_it_says_how_to_get_them() -> None:
    """With what this machine has: neither, or a torchvision that is for another torch."""
    try:
        import_module("lpips")
    except (ImportError, OSError, RuntimeError):
        with pytest.raises(RuntimeUnavailable, match=REMEDY) as caught:
            LpipsConvNext.pretrained()
        assert "\n" not in str(caught.value)
    else:
        pytest.skip("lpips and torchvision load here")


def test_without_torchvision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    with pytest.raises(RuntimeUnavailable, match=REMEDY):
        LpipsConvNext.pretrained()
