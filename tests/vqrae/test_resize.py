"""Another image size: the encoder's library interpolates at each call, the deployed graph did it once."""

from __future__ import annotations

import pytest
import torch
from tiny_models import NETWORKS, random_images, tiny_model

from vqrae.export.form import FP64
from vqrae.export.tokenizers.vqrae import DecodeGraph, EncoderGraph
from vqrae.model.layers import resampled_positions
from vqrae.model.vqrae import resized
from vqrae.runtimes.errors import UsageError

SIZES = [(64, 64), (32, 64), (24, 40)]


def images_of(size: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_folded_graph_does_what_the_library_does(network: str, size: tuple[int, int]) -> None:
    model = resized(tiny_model(network).double(), size)
    images = images_of(size)
    with torch.inference_mode():
        expected = model.encoder(images.permute(0, 3, 1, 2).double() / 127.5 - 1)
        error = (EncoderGraph(model, FP64)(images) - expected).abs().max()
    assert error < (1e-6 if network.startswith("dinov2") else 1e-11), "DINOv2's code interpolates in float32 always"
    assert expected.shape == (2, size[0] // 8 * size[1] // 8, 32)


@pytest.mark.parametrize("size", SIZES)
def test_the_decoder_follows(size: tuple[int, int]) -> None:
    model = resized(tiny_model().double(), size)
    grid = (size[0] // 8, size[1] // 8)
    assert model.grid == model.decoder.grid == grid
    indices = torch.randint(0, 64, (2, *grid), generator=torch.Generator().manual_seed(1)).int()
    with torch.inference_mode():
        images = model.decode_indices(indices)
        assert torch.equal(DecodeGraph(model, FP64)(indices), images)
    assert images.shape == (2, *size, 3)


def test_weights_are_shared_and_the_trained_model_stays_as_it_was() -> None:
    model, images = tiny_model(), random_images()
    before = model.encode_images(images)
    other = resized(model, (64, 48))
    other.encode_images(images_of((64, 48)))
    assert other.encoder is model.encoder
    assert other.decoder.blocks[0].mlp.up.weight.data_ptr() == model.decoder.blocks[0].mlp.up.weight.data_ptr()
    assert not other.training
    assert (model.size, model.grid, len(model.decoder.position_embedding)) == ((32, 32), (4, 4), 16)
    assert all(torch.equal(a, b) for a, b in zip(model.encode_images(images), before, strict=True))


def test_the_trained_size_is_the_model_itself() -> None:
    model = tiny_model()
    assert resized(model, (32, 32)) is model
    assert resampled_positions(model.decoder.position_embedding, (4, 4)) is model.decoder.position_embedding


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((36, 32), "image height: got 36; expected a multiple of the patch size, 8; the nearest: 32 or 40"),
        ((32, 4), "image width: got 4; expected a multiple of the patch size, 8; the nearest: 8"),
        ((0, 32), "image height: got 0"),
    ],
)
def test_a_size_that_patches_do_not_tile_is_refused(size: tuple[int, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resized(tiny_model(), size)
