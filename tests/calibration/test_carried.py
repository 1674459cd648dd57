"""What calibration found, by the names and in the layout of the PyTorch module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import random_images, roles, tiny_model

from vqrae.calibration.int8_graph import Int8Graph
from vqrae.calibration.layers import Product
from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.tokenizers.vqrae import EncodeGraph


@pytest.fixture(scope="module")
def quantizer(encode_graph: Path, images: NDArray[np.uint8]) -> Iterator[Int8Graph]:
    """The encoder's."""
    with Int8Graph(encode_graph, images, roles()) as made:
        yield made


def test_each_layer_at_int8_has_a_reach_for_each_activation(
    quantizer: Int8Graph, products: tuple[Product, ...]
) -> None:
    attention = "encoder.blocks.1.attention.queries_keys"
    plan = PrecisionPlan.default(products).with_layers({attention: "int8"})
    found = quantizer.recipe(plan).reaches
    assert found.keys() == {product.layer for product in plan.int8(products)}
    assert {layer: len(reaches) for layer, reaches in found.items() if len(reaches) != 1} == {attention: 2}


def test_a_reach_is_the_largest_magnitude(quantizer: Int8Graph, products: tuple[Product, ...]) -> None:
    """What the module itself hands to the scores, which nothing smooths."""
    plan = PrecisionPlan.default(products).with_layers({"quantizer.scores": "int8"})
    _, features = EncodeGraph(tiny_model()).eval()(random_images(6))
    assert quantizer.recipe(plan).reaches["quantizer.scores"] == pytest.approx((features.abs().max().item(),), rel=1e-5)


def test_smoothed_parameters_fit_the_module(quantizer: Int8Graph, products: tuple[Product, ...]) -> None:
    """Norms shrink by the powers of two that weights grow by."""
    module = EncodeGraph(tiny_model())
    found = quantizer.recipe(PrecisionPlan.default(products)).smoothing
    for block in (0, 1):
        name, weight = f"encoder.blocks.{block}.mlp_norm.norm.weight", f"encoder.blocks.{block}.up.weight"
        factors_C = module.get_parameter(name).detach().numpy() / found[name]
        assert np.isin(np.log2(factors_C), np.arange(-16, 17)).all()
        assert np.unique(factors_C).size > 1
        np.testing.assert_array_equal(found[weight], module.get_parameter(weight).detach().numpy() * factors_C)


def test_weights_are_those_that_were_smoothed(quantizer: Int8Graph, products: tuple[Product, ...]) -> None:
    found = quantizer.recipe(PrecisionPlan.default(products))
    assert found.weights.keys() == found.reaches.keys()
    stored, wanted = found.weights["encoder.blocks.0.up"], found.smoothing["encoder.blocks.0.up.weight"]
    error = (stored.whole_CO * stored.scale_O).T - wanted
    assert np.square(error).sum() < np.square(wanted).sum() / 1000


def test_without_smoothing_biases_alone_change(quantizer: Int8Graph, products: tuple[Product, ...]) -> None:
    plan = PrecisionPlan.model_validate(PrecisionPlan.default(products).model_dump() | {"smoothing": None})
    found = quantizer.recipe(plan)
    assert found.smoothing == {}
    assert found.corrections.keys() == {f"{layer}.bias" for layer in found.weights}
