from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny_models import random_images, tiny_model

from vqrae.reference import ReferenceTokenizer
from vqrae.training.evaluate import codebook_figures, evaluate, exp_entropy

CODES = 16


class OffByTen:
    """A tokenizer that decodes to its input plus ten, and chooses the first four codes in turn."""

    def encode(self, images: NDArray[np.uint8], /) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        self.images = images
        indices = np.arange(len(images) * 16, dtype=np.int32).reshape(-1, 4, 4) % 4
        return indices, np.zeros((len(images), 16, 2), np.float32)

    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        return self.images + np.uint8(10)


def images(count: int = 3) -> NDArray[np.uint8]:
    return random_images(count).numpy() // 2


def test_psnr_and_ssim_are_the_usual_ones() -> None:
    originals = images()
    report = evaluate(OffByTen(), CODES, originals, "made up")
    pairs = [(image, image + np.uint8(10)) for image in originals]
    psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]
    ssim = [structural_similarity(a, b, channel_axis=2, data_range=255) for a, b in pairs]
    assert report.psnr_db == pytest.approx(20 * np.log10(255 / 10))
    assert report.psnr_db == pytest.approx(np.mean(psnr))
    assert report.ssim == pytest.approx(np.mean(ssim), abs=0.02)
    assert (report.source, report.images, report.tokens) == ("made up", 3, 48)


def test_usage_and_perplexity_count_codes() -> None:
    report = evaluate(OffByTen(), CODES, images(), "made up")
    assert report.codebook_usage == 4 / CODES
    assert report.perplexity == pytest.approx(4)
    assert (report.effective_rank, report.probe) == (None, None)


@given(st.integers(1, 5000))
def test_exp_entropy_of_uniform_weights_is_their_number(count: int) -> None:
    assert exp_entropy(np.ones(count)) == pytest.approx(count)
    assert exp_entropy(np.concatenate([np.full(count, 3), np.zeros(7, int)])) == pytest.approx(count)


@given(st.lists(st.integers(0, 100), min_size=1).filter(any))
def test_exp_entropy_lies_between_one_and_the_number_of_positive_weights(weights: list[int]) -> None:
    value = exp_entropy(np.array(weights))
    assert 1 - 1e-9 <= value <= np.count_nonzero(weights) + 1e-6


def test_exp_entropy_does_not_depend_on_the_scale() -> None:
    spectrum = np.array([5.0, 2.0, 1.0])
    assert exp_entropy(spectrum) == pytest.approx(exp_entropy(spectrum * 1e6))


def test_codebook_figures_of_a_known_codebook() -> None:
    model = tiny_model()
    features = ReferenceTokenizer(model).encode(random_images().numpy())[1]
    figures = codebook_figures(model, features)
    projected = model.in_projection(torch.from_numpy(features)).detach()
    assert figures["feature_norm"] == pytest.approx(projected.norm(dim=-1).mean().item(), rel=1e-5)
    assert figures["code_norm"] == pytest.approx(model.quantizer.codes().norm(dim=1).mean().item(), rel=1e-5)
    assert 1 < figures["effective_rank"] <= 48


def test_effective_rank_of_a_flat_codebook_is_one() -> None:
    model = tiny_model()
    model.quantizer.codebook.copy_(torch.from_numpy(np.outer(np.arange(64), np.ones(48)).astype(np.float32)))
    figures = codebook_figures(model, np.zeros((1, 16, 32), np.float32))
    assert figures["effective_rank"] == pytest.approx(1, abs=0.01)


def test_a_checkpoint_is_evaluated_in_pytorch() -> None:
    report = evaluate(ReferenceTokenizer(tiny_model()), 64, images(2), "tiny")
    assert 0 < report.codebook_usage <= 32 / 64
    assert 1 <= report.perplexity <= 32
    assert -1 <= report.ssim <= 1
    assert 0 < report.psnr_db < 30
