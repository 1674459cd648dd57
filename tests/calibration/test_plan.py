"""Plans: what is INT8 by default, the file, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from vqrae.calibration.layers import Product, Role
from vqrae.calibration.plan import FLOAT_BY_DEFAULT, PrecisionPlan
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.runtimes.precision import KeptFloat

LAYERS = (
    "encoder.patch_embedding",
    "encoder.blocks.0.query_key_value",
    "encoder.blocks.0.attention.queries_keys",
    "encoder.blocks.0.attention.weights_values",
    "encoder.blocks.0.out",
    "encoder.blocks.0.gate",
    "encoder.blocks.0.up",
    "encoder.blocks.0.down",
    "encoder.blocks.1.up",
    "quantizer.scores",
    "decoder.head",
)
ROLES: Mapping[str, Role] = {
    "patch_embedding": "patch",
    "gate": "mlp",
    "up": "mlp",
    "down": "mlp",
    "scores": "scores",
    "head": "head",
}
INT8 = {layer for layer in LAYERS if layer.rpartition(".")[2] in ("query_key_value", "out", "gate", "up", "down")}


@pytest.fixture
def products() -> tuple[Product, ...]:
    return tuple(
        Product(
            layer=layer,
            node=f"node_{number}",
            role=ROLES.get(layer.rpartition(".")[2], "attention"),
            inputs=(f"x_{number}", f"w_{number}"),
            has_weight=".attention." not in layer,
            multiplications=1,
        )
        for number, layer in enumerate(LAYERS)
    )


def test_by_default_the_large_products_with_weights_are_int8(products: tuple[Product, ...]) -> None:
    plan = PrecisionPlan.default(products)
    assert {layer for layer, precision in plan.layers.items() if precision == "int8"} == INT8
    assert set(plan.layers) == set(LAYERS)
    assert (plan.ranges, plan.smoothing) == ("minmax", 0.5)
    plan.check(products)
    assert [product.layer for product in plan.int8(products)] == [layer for layer in LAYERS if layer in INT8]


def test_weights_alone_are_stored_in_int8_by_default_where_products_would_be(products: tuple[Product, ...]) -> None:
    plan, stored = PrecisionPlan.default(products), PrecisionPlan.default(products, "float")
    assert stored == plan.model_copy(update={"activations": "float", "smoothing": None})
    assert {entry.layer for entry in stored.kept_float(products)} == {
        entry.layer for entry in plan.kept_float(products)
    }
    stored.check(products)
    attention = "encoder.blocks.0.attention.weights_values"
    plan.with_layers({attention: "int8"}).check(products)
    with pytest.raises(UsageError, match=f"^layer {attention} of the plan: got int8; expected float: it has no"):
        stored.with_layers({attention: "int8"}).check(products)


def test_a_plan_reads_back_as_it_was_written(products: tuple[Product, ...], tmp_path: Path) -> None:
    plan = PrecisionPlan(ranges="percentile", smoothing=None, layers=PrecisionPlan.default(products).layers)
    plan.write(tmp_path / "plan.json")
    again = PrecisionPlan.read(tmp_path / "plan.json")
    assert again == plan
    again.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()


def test_equal_plans_give_equal_bytes_whatever_the_order(products: tuple[Product, ...], tmp_path: Path) -> None:
    PrecisionPlan.default(products).write(tmp_path / "one.json")
    PrecisionPlan.default(products[::-1]).write(tmp_path / "other.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_a_plan_is_one_line_for_each_layer(products: tuple[Product, ...], tmp_path: Path) -> None:
    """It is edited by hand."""
    PrecisionPlan.default(products).write(tmp_path / "plan.json")
    lines = (tmp_path / "plan.json").read_text().splitlines()
    assert '    "encoder.blocks.0.up": "int8",' in lines
    assert sum(line.startswith("    ") for line in lines) == len(LAYERS)


def test_a_plan_that_names_only_its_layers_has_the_defaults_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"layers": {"encoder.blocks.0.up": "int8"}}')
    assert PrecisionPlan.read(tmp_path / "plan.json") == PrecisionPlan(layers={"encoder.blocks.0.up": "int8"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "plan.json: got invalid JSON ("),
        (b"{", "plan.json: got invalid JSON ("),
        (b"\xff\xfe", "plan.json: got invalid JSON ("),
        (b"[]", "plan.json: got a JSON list; expected a plan's file"),
        (b"{}", "plan.json field layers: got no such field; expected a value"),
        (b'{"format": "vqrae-plan/2", "layers": {}}', "field format: got 'vqrae-plan/2'; expected 'vqrae-plan/1'"),
        (b'{"layers": {"a": "int4"}}', "field layers.a: got 'int4'; expected 'int8' or 'float'"),
        (b'{"layers": {}, "ranges": "most"}', "field ranges: got 'most'; expected 'minmax', 'percentile' or 'entropy'"),
        (b'{"layers": {}, "smoothing": 1.5}', "field smoothing: got 1.5; expected less than or equal to 1"),
        (b'{"layers": {}, "smoothing": NaN}', "plan.json: got invalid JSON (NaN is not"),
        (b'{"layers": {}, "color": 1}', "field color: got an unknown field; expected a field"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        PrecisionPlan.read(tmp_path / "plan.json")
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: got No such file or directory; expected a plan's file"):
        PrecisionPlan.read(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="got Is a directory; expected a plan's file"):
        PrecisionPlan.read(tmp_path)


def test_an_unknown_layer_is_refused_with_the_nearest_one(products: tuple[Product, ...]) -> None:
    plan = PrecisionPlan.default(products).with_layers({"encoder.blocks.0.upp": "int8"})
    message = (
        r"layer of the plan: got 'encoder.blocks.0.upp'; expected one of .*; did you mean encoder\.blocks\.0\.up\?"
    )
    with pytest.raises(UsageError, match=message):
        plan.check(products)


def test_scores_are_not_multiplied_in_int8(products: tuple[Product, ...]) -> None:
    asked = PrecisionPlan.default(products).with_layers({"quantizer.scores": "int8"})
    with pytest.raises(
        UsageError, match=r"^layer quantizer\.scores of the plan: got int8; expected float: .*; write float"
    ):
        asked.check(products)
    PrecisionPlan.default(products, "float").with_layers({"quantizer.scores": "int8"}).check(
        products
    )  # stored, as before


def test_a_layer_that_is_left_out_is_named(products: tuple[Product, ...]) -> None:
    whole = PrecisionPlan.default(products).layers
    one = {layer: precision for layer, precision in whole.items() if layer != "encoder.blocks.1.up"}
    expected = "expected int8 or float for each layer of the tokenizer"
    with pytest.raises(DataError, match=rf"layers of the plan: got nothing about encoder\.blocks\.1\.up; {expected}"):
        PrecisionPlan(layers=one).check(products)
    with pytest.raises(DataError, match=r"got nothing about encoder\.patch_embedding and 10 others; expected"):
        PrecisionPlan(layers={}).check(products)


def test_changes_leave_the_plan_they_are_made_of(products: tuple[Product, ...]) -> None:
    plan = PrecisionPlan(ranges="entropy", smoothing=0.7, layers=PrecisionPlan.default(products).layers)
    other = plan.with_layers({"decoder.head": "int8"})
    assert plan.layers["decoder.head"] == "float"
    assert other.layers == {**plan.layers, "decoder.head": "int8"}
    assert (other.ranges, other.smoothing) == ("entropy", 0.7)


def test_what_stays_in_float_has_a_reason(products: tuple[Product, ...]) -> None:
    kept = PrecisionPlan.default(products).kept_float(products)
    assert {entry.layer for entry in kept} == {
        "patch_embedding",
        "queries_keys",
        "weights_values",
        "scores",
        "head",
    }
    kinds = {product.layer.rpartition(".")[2]: product.kind for product in products}
    assert all(entry.reason == FLOAT_BY_DEFAULT[kinds[entry.layer]] for entry in kept)


def test_some_layers_of_a_kind_are_named_and_a_whole_kind_is_not(products: tuple[Product, ...]) -> None:
    layers = dict.fromkeys(LAYERS, "int8")
    some = PrecisionPlan.model_validate({"layers": layers | {"encoder.blocks.0.up": "float"}})
    assert some.kept_float(products) == (KeptFloat(layer="encoder.blocks.0.up", reason="the plan keeps it"),)
    both = some.with_layers({"encoder.blocks.1.up": "float"})
    assert both.kept_float(products) == (KeptFloat(layer="up", reason="the plan keeps it"),)
    assert PrecisionPlan.model_validate({"layers": layers}).kept_float(products) == ()
