from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import NETWORKS, PATCH, SIZE, WIDTH, random_images, tiny_config, tiny_model
from torch import nn

from vqrae.model import VQRAE
from vqrae.model.layers import (
    patches_from_pixels,
    pixels_from_patches,
    pixels_from_uint8,
    sincos_positions,
    uint8_from_pixels,
)
from vqrae.model.reference import BATCH_SIZE, ReferenceTokenizer


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_shapes_and_dtypes(network: str) -> None:
    model, images = tiny_model(network), random_images(3)
    indices, features = model.encode_images(images)
    assert (indices.dtype, indices.shape) == (torch.int32, (3, 4, 4))
    assert (features.dtype, features.shape) == (torch.float32, (3, 16, WIDTH))
    decoded = model.decode_indices(indices)
    assert (decoded.dtype, decoded.shape) == (torch.uint8, (3, SIZE, SIZE, 3))
    assert int(indices.min()) >= 0
    assert int(indices.max()) < 64


def test_training_sees_what_deployment_returns() -> None:
    model, images = tiny_model(), random_images()
    out = model(pixels_from_uint8(images))
    indices, features = model.encode_images(images)
    assert out.pixels.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(out.features, features)
    assert torch.equal(out.indices, indices.flatten(1).long())
    # The straight-through sum z + (c - z) rounds differently from c.
    difference = uint8_from_pixels(out.pixels).int() - model.decode_indices(indices).int()
    assert difference.abs().max() <= 1


def test_both_projections_stand_around_the_codebook() -> None:
    model = tiny_model()
    width, code_width = model.config.feature_width, model.config.quantizer.code_width
    assert width != code_width
    for layer, shape in ((model.in_projection, (code_width, width)), (model.out_projection, (width, code_width))):
        assert isinstance(layer, nn.Linear)
        assert layer.weight.shape == shape
        assert layer.bias is not None
    assert model.quantizer.codebook.shape == (64, code_width)


def test_encode_is_the_explicit_path() -> None:
    model, images = tiny_model(), random_images()
    indices, features = model.encode_images(images)
    with torch.inference_mode():
        z = model.in_projection(features).double()
        codes = model.quantizer.transform(model.quantizer.codebook).double()
        distances = torch.cdist(z, codes.expand(3, -1, -1))
    assert torch.equal(indices.flatten(1).long(), distances.argmin(-1))


def test_decode_is_the_explicit_path() -> None:
    model = tiny_model()
    indices = torch.arange(32).view(2, 4, 4)
    with torch.inference_mode():
        codes = model.quantizer.transform(model.quantizer.codebook)
        pixels = model.decoder(model.out_projection(codes[indices.flatten(1)]))
    assert torch.equal(model.decode_indices(indices), uint8_from_pixels(pixels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_decode_takes_any_integer_dtype(dtype: torch.dtype) -> None:
    model, indices = tiny_model(), torch.arange(16).view(1, 4, 4)
    assert torch.equal(model.decode_indices(indices.to(dtype)), model.decode_indices(indices))


def test_no_convolution_in_the_decoder() -> None:
    kinds = {type(module).__name__ for module in tiny_model().decoder.modules()}
    assert not [kind for kind in kinds if "Conv" in kind]


def test_a_token_decodes_to_its_own_square_when_nothing_mixes() -> None:
    """With attention silenced, changing one token changes its p×p square and nothing else: the patches lie right."""
    model = tiny_model()
    for block in model.decoder.blocks:
        nn.init.zeros_(block.attention.out.weight)
    indices = torch.zeros(1, 4, 4, dtype=torch.int64)
    before = model.decode_indices(indices)
    indices[0, 1, 2] = 5
    changed = (model.decode_indices(indices) != before).any(-1)[0]
    rows, columns = changed.nonzero(as_tuple=True)
    assert set(rows.tolist()) <= set(range(PATCH, 2 * PATCH))
    assert set(columns.tolist()) <= set(range(2 * PATCH, 3 * PATCH))
    assert changed.any()


def test_every_uint8_survives_the_round_trip() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    pixels = pixels_from_uint8(images)
    assert (pixels.min(), pixels.max(), pixels.dtype) == (-1, 1, torch.float32)
    assert torch.equal(uint8_from_pixels(pixels), images)


def test_pixels_outside_are_clipped_and_halves_go_to_even() -> None:
    values = torch.tensor([-9.0, -1.0, 1.0, 9.0, (0.5 - 127.5) / 127.5, (1.5 - 127.5) / 127.5])
    out = uint8_from_pixels(values.double().view(1, 1, 1, 6).expand(1, 3, 1, 6))
    assert out[0, 0, :, 0].tolist()[:4] == [0, 0, 255, 255]
    assert out.shape == (1, 1, 6, 3)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_patches_and_pixels_are_inverse(h: int, w: int, patch: int, batch: int) -> None:
    pixels = torch.arange(batch * 3 * h * w * patch**2, dtype=torch.float32).view(batch, 3, h * patch, w * patch)
    patches = patches_from_pixels(pixels, patch)
    assert patches.shape == (batch, h * w, 3 * patch**2)
    assert torch.equal(pixels_from_patches(patches, (h, w), patch), pixels)


def test_a_patch_is_row_major_in_y_x_channel() -> None:
    pixels = torch.zeros(1, 3, 4, 6)
    pixels[0, 2, 3, 5] = 7  # blue, last row of the last 2×2 patch, last column
    patches = patches_from_pixels(pixels, 2)
    assert patches.nonzero().tolist() == [[0, 5, 11]]


def test_positions_tell_all_tokens_apart_and_neighbors_alike() -> None:
    positions = sincos_positions((6, 5), 32)
    assert (positions.shape, positions.dtype) == ((30, 32), torch.float32)
    distances = torch.cdist(positions, positions)
    assert (distances + 10 * torch.eye(30)).min() > 0.1
    assert distances[0, 1] < distances[0, 4]
    assert distances[0, 5] < distances[0, 25]


def test_a_pretrained_encoder_is_put_in_place() -> None:
    encoder = tiny_model().encoder
    assert VQRAE(tiny_config(), encoder).encoder is encoder


def test_reference_tokenizer_is_the_model_in_chunks() -> None:
    model, images = tiny_model(), random_images(BATCH_SIZE + 3)
    tokenizer = ReferenceTokenizer(model)
    indices, features = tokenizer.encode(images.numpy())
    assert (indices.dtype, features.dtype) == (np.int32, np.float32)
    whole_indices, whole_features = model.encode_images(images)
    np.testing.assert_array_equal(indices, whole_indices)
    np.testing.assert_allclose(features, whole_features, atol=1e-5)
    np.testing.assert_array_equal(tokenizer.decode(indices), model.decode_indices(whole_indices))
