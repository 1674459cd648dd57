from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vqrae.downstream.language import open_language
from vqrae.downstream.lessons import PaintedData, painting_loss
from vqrae.downstream.painter import Painter, Sampling, code_embeddings
from vqrae.runtimes.errors import IndicesError, UsageError

PROMPTS = ["two red crosses at the top left on brick", "", "one blue ring at the top right on grass"]
GUIDED = Sampling(guidance=3.0, temperature=0.9, top_k=20, top_p=0.9)


def test_a_seed_names_the_images(painter: Painter) -> None:
    first, again, other = (painter.paint(PROMPTS, GUIDED, seed) for seed in (1, 1, 2))
    assert first.dtype == np.int32
    assert first.shape == (3, 16)
    assert 0 <= first.min() <= first.max() < 64
    assert (first == again).all()
    assert (first != other).any()


def test_painting_leaves_the_generator_as_it_was(painter: Painter) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    painter.paint(PROMPTS[:1], GUIDED, 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("sampling", [Sampling(), GUIDED])
def test_the_cache_changes_nothing(painter: Painter, sampling: Sampling) -> None:
    uncached = sampling.model_copy(update={"cached": False})
    assert (painter.paint(PROMPTS, sampling, 3) == painter.paint(PROMPTS, uncached, 3)).all()


def test_guidance_of_one_is_none_and_more_is_felt(painter: Painter) -> None:
    """At scale g the logits are u + g (c − u); checked against the model's own at the first code."""
    plain = painter.paint(PROMPTS, Sampling(), 3)
    assert (painter.paint(PROMPTS, Sampling(guidance=1.0), 3) == plain).all()
    assert (painter.paint(PROMPTS, Sampling(guidance=4.0), 3) != plain).any()
    with torch.inference_mode():
        logits = []
        for prompt in (PROMPTS[0], ""):
            ids, mask = painter._prompts([prompt])
            logits.append(painter.language(ids, attention_mask=mask).logits[0, -1, painter.fields.first_code :])
    guided = logits[1] + 4 * (logits[0] - logits[1])
    likeliest = painter.paint(PROMPTS[:1], Sampling(guidance=4.0, top_k=1), 0)
    assert likeliest[0, 0] == int(guided.argmax())


def test_only_codes_are_painted_and_learned(painter: Painter) -> None:
    """The loss is that of the codes alone, over the whole vocabulary."""
    indices = torch.arange(32).view(2, 16)
    with torch.no_grad():
        loss = painter(PROMPTS[:2], indices)
        rows = []
        for prompt, codes in zip(PROMPTS[:2], indices, strict=True):
            ids, _ = painter._prompts([prompt])
            sequence = torch.cat([ids[0], codes + painter.fields.first_code])
            logits = painter.language(sequence[None]).logits[0]
            rows.append(torch.nn.functional.cross_entropy(logits[-17:-1], sequence[-16:]))
    torch.testing.assert_close(loss, torch.stack(rows).mean(), rtol=1e-4, atol=1e-5)


def test_a_painter_is_read_back(painter: Painter, tmp_path: Path) -> None:
    painter.save(tmp_path / "painter")
    assert (Painter.open(tmp_path / "painter").paint(PROMPTS, GUIDED, 1) == painter.paint(PROMPTS, GUIDED, 1)).all()


def test_more_tokens_than_the_grid_are_refused(painter: Painter) -> None:
    assert painter.paint(PROMPTS[:1], Sampling(), 0, 5).shape == (1, 5)
    for count in (0, 17):
        with pytest.raises(UsageError, match=f"new tokens: got {count}; expected 1 to 16, the 4×4 grid"):
            painter.paint(PROMPTS[:1], Sampling(), 0, count)


def test_codes_outside_the_vocabulary_are_refused(painter: Painter) -> None:
    for value in (64, -1):
        indices = torch.zeros(1, 16, dtype=torch.int64)
        indices[0, 3] = value
        with pytest.raises(IndicesError, match=r"codes: got values from .*; expected 0 to 63"):
            painter([""], indices)
    with pytest.raises(IndicesError, match="got 9 of an image; expected 16"):
        painter([""], torch.zeros(1, 9, dtype=torch.int64))


def test_words_outside_the_world_are_refused(painter: Painter) -> None:
    with pytest.raises(UsageError, match=re.escape("outside the model's vocabulary: 'pink', 'elephant'")):
        painter.paint(["one pink elephant"], Sampling(), 0)


def test_another_tokenizer_is_refused(painter: Painter) -> None:
    ours = painter.fields
    painter.check_tokenizer(ours.grid, ours.codebook_size, ours.tokenizer_sha256)
    with pytest.raises(UsageError, match=r"token grid: got \(8, 8\)"):
        painter.check_tokenizer((8, 8), ours.codebook_size, ours.tokenizer_sha256)
    with pytest.raises(UsageError, match=r"tokenizer's weights: got 0000; expected .* bundle of it"):
        painter.check_tokenizer(ours.grid, ours.codebook_size, "0000")


def test_the_loss_of_a_data_set_is_its_mean(painter: Painter) -> None:
    indices = np.arange(48).reshape(3, 16)
    data = PaintedData(indices, PROMPTS)
    with torch.no_grad():
        alone = [
            float(painter([prompt], torch.from_numpy(row[None]))) for prompt, row in zip(PROMPTS, indices, strict=True)
        ]
    assert painting_loss(painter, data, batch_size=2) == pytest.approx(np.mean(alone), rel=1e-4)


@pytest.mark.parametrize("width", [8, 24, 64])
def test_embeddings_of_codes_lie_to_each_other_as_the_codes_do(width: int) -> None:
    """Exactly where there is room for all their directions; with less room the main ones are kept."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(100, 24, generator=generator) * torch.logspace(0, -2, 24) + 5
    embeddings = code_embeddings(codes, width, 0.02, seed=3)
    assert embeddings.shape == (100, width)
    assert embeddings.std().item() == pytest.approx(0.02)
    distances, expected = torch.pdist(embeddings), torch.pdist(codes)
    shares = distances / expected
    assert (shares / shares.mean() - 1).abs().max() < (1e-4 if width >= 24 else 0.4)
    assert torch.equal(embeddings, code_embeddings(codes, width, 0.02, seed=3))
    assert not torch.equal(embeddings, code_embeddings(codes, width, 0.02, seed=4))


def test_a_painter_begins_with_the_codes_vectors(language_folder: Path) -> None:
    codes = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    painter = Painter.extend(open_language(str(language_folder)), (4, 4), codes, "of the weights", seed=0)
    words = painter.language.get_input_embeddings().weight
    expected = code_embeddings(codes, words.shape[1], painter.language.config.initializer_range, seed=0)
    assert torch.equal(words[painter.fields.first_code :], expected)
    assert torch.equal(painter.language.get_output_embeddings().weight, words)
