from __future__ import annotations

import pytest
from trial_model import DAMAGE, SAVES_MS, Model, products

from vqrae.calibration.sensitivity import TRUST, Sensitivity, group_sensitivities, layer_sensitivities


def test_each_layer_alone_and_left_out() -> None:
    model, steps = Model(), []
    found = layer_sensitivities(products(), model.make, lambda *step: steps.append(step))
    assert [row.name for row in found] == ["a", "b", "c", "e", "d"], "most harmful first"
    for row in found:
        assert row.damage_alone == pytest.approx(DAMAGE[row.name])
        assert row.damage_regained == pytest.approx(DAMAGE[row.name])
        assert row.ms_won_alone == pytest.approx(SAVES_MS[row.name])
        assert row.ms_lost == pytest.approx(SAVES_MS[row.name])
        assert row.share == pytest.approx(SAVES_MS[row.name] / 8.1)
    assert model.made == 1 + 2 * 5
    assert [done for _, done, _ in steps] == list(range(10))
    assert {total for *_, total in steps} == {10}


def test_groups_hold_their_layers() -> None:
    groups = {row.name: row.layers for row in group_sensitivities(products(), Model().make, lambda *_: None)}
    assert groups == {"MLP": ("a", "b", "c", "e"), "d": ("d",)}, "products without weights are a group of their own"


def test_blocks_are_groups_too() -> None:
    named = [
        product.__class__(**vars(product) | {"layer": f"encoder.blocks.{number % 2}.{product.layer}"})
        for number, product in enumerate(products())
    ]
    model = Model()

    def make(layers: object) -> object:
        return model.make([layer.rpartition(".")[2] for layer in layers])  # type: ignore[attr-defined]

    groups = {row.name: row.layers for row in group_sensitivities(named, make, lambda *_: None)}  # type: ignore[arg-type]
    assert groups["block 0"] == ("encoder.blocks.0.a", "encoder.blocks.0.c", "encoder.blocks.0.e")
    assert groups["block 1"] == ("encoder.blocks.1.b", "encoder.blocks.1.d")


@pytest.mark.parametrize(("measured", "believed"), [(1.0, 1.0), (-3.0, 2 / TRUST), (100.0, 2 * TRUST)])
def test_a_time_that_cannot_be_is_noise(measured: float, believed: float) -> None:
    row = Sensitivity(
        name="a",
        layers=("a",),
        share=0.25,
        damage_alone=0.1,
        ms_won_alone=measured,
        damage_regained=0.1,
        ms_lost=measured,
    )
    assert row.damage_per_ms(whole_ms=8) == pytest.approx(0.1 / believed)
