"""Deployment may change the form, never the function: every folded graph against the unfolded model, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import NETWORKS, random_images, tiny_model

from vqrae.export.form import FP16, FP64, Form
from vqrae.export.tokenizers.vqrae import (
    DecodeGraph,
    DecoderGraph,
    EncodeGraph,
    EncoderGraph,
    codebook_graph,
    quantizer_graph,
)
from vqrae.model import VQRAE
from vqrae.model.layers import pixels_from_uint8
from vqrae.model.parts import affine_from_linear

TOLERANCE = 1e-11


@pytest.fixture(params=sorted(NETWORKS))
def model(request: pytest.FixtureRequest) -> VQRAE:
    return tiny_model(request.param).double()


def features_of(model: VQRAE, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.encoder(images.permute(0, 3, 1, 2).double() / 127.5 - 1)


def nearest(model: VQRAE, features: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cdist(model.in_projection(features), model.quantizer.codes()).argmin(-1)


def test_encoder_features(model: VQRAE) -> None:
    images = random_images()
    with torch.inference_mode():
        folded = EncoderGraph(model, FP64)(images)
    assert (folded - features_of(model, images)).abs().max() < TOLERANCE


def test_scaled_bytes_change_nothing(model: VQRAE) -> None:
    images = random_images()
    with torch.inference_mode():
        scaled = EncoderGraph(model, replace(FP64, byte_scale=FP16.byte_scale))(images)
        assert torch.equal(scaled, EncoderGraph(model, FP64)(images)), "a power of two rounds nothing"


def test_fp16_has_hardly_any_subnormal_weights() -> None:
    """A device may take them for zero. Without the scale a third of a patch embedding of usual size would be."""
    model = tiny_model()
    torch.nn.init.normal_(model.encoder.network.embeddings.patch_embedding.weight, std=0.02)

    def subnormal(form: Form) -> float:
        weight = EncoderGraph(model, form).patch_embedding.weight
        return float((weight.abs() < torch.finfo(torch.float16).smallest_normal).float().mean())

    assert subnormal(FP16) < 0.01
    assert subnormal(replace(FP16, byte_scale=1.0)) > 0.2


def test_search_finds_the_nearest_code(model: VQRAE) -> None:
    features = features_of(model, random_images(16))
    with torch.inference_mode():
        indices = quantizer_graph(model, FP64)(features)
    assert indices.dtype == torch.int32
    assert torch.equal(indices.flatten(1).long(), nearest(model, features))


def test_search_scores_order_codes_as_distances_do() -> None:
    model = tiny_model().double()
    features = features_of(model, random_images())
    scores = model.quantizer.scores(affine_from_linear(model.in_projection))
    with torch.inference_mode():
        distances = torch.cdist(model.in_projection(features), model.quantizer.codes()).square()
        gaps = (distances - distances.mean(-1, keepdim=True)) / -2
        folded = features @ scores.weight.T + scores.bias
        folded -= folded.mean(-1, keepdim=True)
    assert (gaps - folded).abs().max() < 1e-9


def test_centering_leaves_no_mean() -> None:
    model = tiny_model()
    scores = model.quantizer.scores(affine_from_linear(model.in_projection))
    assert scores.weight.mean(0).abs().max() < 1e-12
    assert scores.bias.mean().abs() < 1e-12


def test_lookup_table(model: VQRAE) -> None:
    indices = torch.arange(32, dtype=torch.int32).reshape(2, 4, 4)
    with torch.inference_mode():
        expected = model.out_projection(model.quantizer.codes()[indices.flatten(1).long()])
        assert (codebook_graph(model, FP64)(indices) - expected).abs().max() < TOLERANCE


def test_decoded_bytes(model: VQRAE) -> None:
    indices = torch.randint(0, 64, (3, 4, 4), generator=torch.Generator().manual_seed(1)).int()
    with torch.inference_mode():
        assert torch.equal(DecodeGraph(model, FP64)(indices), model.decode_indices(indices))


def test_wholes_are_the_parts_composed() -> None:
    model, images = tiny_model(), random_images()
    with torch.inference_mode():
        indices, features = EncodeGraph(model)(images)
        assert torch.equal(quantizer_graph(model)(EncoderGraph(model)(images)), indices)
        assert torch.equal(DecoderGraph(model)(codebook_graph(model)(indices)), DecodeGraph(model)(indices))
    assert features.shape == (3, 16, 32)


def test_float32_graphs_agree_with_the_float32_model() -> None:
    model, images = tiny_model(), random_images(8)
    with torch.inference_mode():
        indices, features = EncodeGraph(model)(images)
        expected_indices, expected_features = model.encode_images(images)
    torch.testing.assert_close(features, expected_features, atol=1e-4, rtol=1e-4)
    assert (indices == expected_indices).float().mean() > 0.99
    assert pixels_from_uint8(images).abs().max() <= 1
