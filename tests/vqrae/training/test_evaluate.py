from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny_models import random_images, tiny_model

from vqrae.model import VQRAE
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.errors import ImageError
from vqrae.training.evaluation.evaluate import CodebookMeter, evaluate, exp_entropy

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
    assert (report.effective_rank, report.rfid, report.probe) == (None, None, None)


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


def codebook_figures(model: VQRAE, features_BNC: NDArray[np.float32]) -> dict[str, float]:
    meter = CodebookMeter(model)
    meter.add(features_BNC)
    return meter.figures()


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


def test_chunks_of_a_stream_add_up_to_the_whole() -> None:
    tokenizer, model = ReferenceTokenizer(tiny_model()), tiny_model()
    whole = images(7)
    at_once = evaluate(tokenizer, 64, whole, "tiny", model=model)
    in_parts = evaluate(tokenizer, 64, (whole[start : start + 3] for start in range(0, 7, 3)), "tiny", model=model)
    assert at_once.images == 7
    parts, wholes = (report.model_dump(exclude_none=True) for report in (in_parts, at_once))
    figures = [name for name, value in wholes.items() if isinstance(value, float | dict)]
    assert {"frechet_distance", "effective_rank", "feature_norm", "ssim_percentiles"} < set(figures)
    for name in figures:
        assert parts[name] == pytest.approx(wholes[name], rel=1e-5)


def test_no_chunk_is_kept() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def stream() -> Iterator[NDArray[np.uint8]]:
        for seed in range(6):
            chunk = random_images(2, seed).numpy().copy()
            alive.append(weakref.ref(chunk))
            yield chunk
            assert sum(known() is not None for known in alive) <= 2

    assert evaluate(ReferenceTokenizer(tiny_model()), 64, stream(), "tiny").images == 12


def test_percentiles_are_those_of_the_images() -> None:
    whole = images(5)
    tokenizer = ReferenceTokenizer(tiny_model())
    report = evaluate(tokenizer, 64, whole, "tiny")
    pairs = zip(whole, tokenizer.decode(tokenizer.encode(whole)[0]), strict=True)
    psnrs = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]
    assert list(report.psnr_db_percentiles) == ["p5", "p50", "p95"]
    assert report.psnr_db_percentiles["p50"] == pytest.approx(np.median(psnrs))
    assert report.ssim_percentiles["p5"] <= report.ssim_percentiles["p95"]


def test_no_image_at_all() -> None:
    with pytest.raises(ImageError, match="images: got none"):
        evaluate(OffByTen(), CODES, iter([]), "made up")


class Copying:
    """A tokenizer that loses nothing, and whose only feature is an image's mean."""

    def encode(self, images: NDArray[np.uint8], /) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        self.images = images
        return np.zeros((len(images), 1, 1), np.int32), images.mean((1, 2, 3), np.float32).reshape(-1, 1, 1)

    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        return self.images


class Darker(Copying):
    """One that makes everything darker by ten."""

    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        return self.images - np.uint8(10)


class Brightness:
    """The feature space of two constants and an image's mean."""

    name = "brightness"

    def pooled(self, images: NDArray[np.uint8], /) -> NDArray[np.floating]:
        means = images.mean((1, 2, 3))
        return np.stack([means, np.ones(len(means)), np.zeros(len(means))], 1)


def test_frechet_distance_in_its_own_and_in_a_teacher_s_space() -> None:
    whole = np.maximum(images(4), 10)
    assert evaluate(Copying(), 1, whole, "copies").frechet_distance == pytest.approx(0, abs=1e-9)
    own = evaluate(Darker(), 1, whole, "darker")
    assert own.frechet_distance == pytest.approx(100, rel=1e-4)
    assert own.frechet_space == "its own features, 1 wide, mean over tokens"
    taught = evaluate(Darker(), 1, whole, "darker", space=Brightness(), inception=Brightness())
    assert (taught.frechet_distance, taught.rfid) == (pytest.approx(100, rel=1e-4), pytest.approx(100, rel=1e-4))
    assert taught.frechet_space == "brightness"


def test_few_images_are_noted() -> None:
    few = evaluate(Darker(), 1, np.maximum(images(2), 10), "darker", space=Brightness(), inception=Brightness())
    assert [note.partition(" dimensions")[0] for note in few.notes] == [
        "frechet_distance: 2 images in 3",
        "rfid: 2 images in 3",
    ]
    one = evaluate(Darker(), 1, np.maximum(images(1), 10), "darker")
    assert one.frechet_distance is None
    assert one.notes == ("frechet_distance: a covariance needs two images at least",)
    assert evaluate(Darker(), 1, np.maximum(images(3), 10), "darker").notes == ()
