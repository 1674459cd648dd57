"""A precision plan: which matrix products are INT8, layer by layer. A small file to read, edit, and apply again.

Light: nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field

from vqrae.runtimes.errors import DataError, UsageError, unknown_name
from vqrae.runtimes.json_text import Record, read_model
from vqrae.runtimes.precision import KeptFloat
from vqrae.runtimes.staging import write_output

if TYPE_CHECKING:
    from vqrae.calibration.layers import Product

RangeMethod = Literal["minmax", "percentile", "entropy"]
LayerPrecision = Literal["int8", "float"]
Activations = Literal["int8", "float"]
"""What INT8 weights are multiplied with: `float` only stores them in INT8, and needs no calibration images."""
Storage = Literal["compact", "fp32"]
"""How the large numbers that stay float are stored; they are multiplied in FP32 either way."""
Scheme = Literal["asymmetric", "symmetric"]
"""What a runtime takes: `asymmetric`, activations in uint8 with a zero point, which covers one-sided ones better, and
constants in int16; `symmetric`, activations in int8 around zero, and of 16 bits FP16 alone."""

PLAN_FILE = "plan.json"
"""A bundle's own plan."""

FLOAT_BY_DEFAULT: Mapping[str, str] = {
    "scores": "neighboring codes differ by less than INT8 resolves",
    "weights_values": "most attention weights are smaller than one step of INT8 from 0 to 1",
    "queries_keys": "quantizing both sides costs about what the product gains",
    "patch": "too little arithmetic to gain from it",
    "head": "its rounding is seen in every pixel",
}
"""Kind of a product (`layers.Product.kind`) -> why it stays in float unless a plan says otherwise."""
STORED_FLOAT_BY_DEFAULT: Mapping[str, str] = {
    "scores": FLOAT_BY_DEFAULT["scores"],
    "weights_values": "it has no weights to store",
    "queries_keys": "it has no weights to store",
    "patch": "too few weights to gain from it",
    "head": FLOAT_BY_DEFAULT["head"],
}
"""The same where activations stay float."""


def _in_order(layers: dict[str, LayerPrecision]) -> dict[str, LayerPrecision]:
    return dict(sorted(layers.items()))


class PrecisionPlan(Record):
    """The precision of every matrix product of a tokenizer's graphs, and how its INT8 is made."""

    format: Literal["vqrae-plan/1"] = "vqrae-plan/1"
    activations: Activations = "int8"
    """Whether the layers at INT8 multiply whole numbers, or store their weights so and multiply floats."""
    ranges: RangeMethod = "minmax"
    """How far an activation's INT8 reaches; see `ranges.activation_ranges`. Nothing is rounded where it stays float."""
    smoothing: Annotated[float, Field(ge=0, le=1)] | None = 0.5
    """SmoothQuant's α: how much of the activations' spread between channels moves into the weights; None moves none.
    Where activations stay float none is moved."""
    storage: Storage = "compact"
    """Of the tables and weights that stay float. `compact` rounds them to 8, 12 or 16 bits with a scale for each
    channel (`weights.LOOKUP_BITS`, `weights.ADDED_BITS`), and to FP16 for runtimes that have no such numbers."""
    layers: Annotated[dict[str, LayerPrecision], AfterValidator(_in_order)]
    """Layer -> `int8` or `float`; all layers of the architecture, such as `encoder.blocks.0.up`."""

    @classmethod
    def default(
        cls, products: Sequence[Product], activations: Activations = "int8", *, also: Collection[str] = ()
    ) -> Self:
        """INT8 where there are weights, but for `FLOAT_BY_DEFAULT`; of that, kinds in `also` are INT8 too."""
        kept = FLOAT_BY_DEFAULT.keys() - {*also}
        layers: dict[str, LayerPrecision] = {p.layer: "float" if p.kind in kept else "int8" for p in products}
        smoothing = 0.5 if activations == "int8" else None
        return cls(activations=activations, smoothing=smoothing, layers=layers)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan's file.

        Raises:
            DataError: it cannot be read, or is no plan; names the first field that is wrong.
        """
        return read_model(path, cls, DataError, "a plan's file")

    def write(self, path: Path) -> None:
        """Write it; equal plans give equal bytes.

        Raises:
            StorageError: the operating system refused to write.
        """
        write_output(path, self.model_dump_json(indent=2) + "\n")

    def check(self, products: Sequence[Product]) -> None:
        """Compare with the architecture that it is to be applied to.

        Raises:
            UsageError: it names a layer that is not there, stores weights where there are none, or multiplies the
                scores of the codes in INT8.
            DataError: it says nothing of a layer that is.
        """
        known = [product.layer for product in products]
        for layer in self.layers:
            if layer not in known:
                raise unknown_name("layer of the plan", layer, known)
        absent = [layer for layer in known if layer not in self.layers]
        if absent:
            got = f"nothing about {absent[0]}" + (f" and {len(absent) - 1} others" if len(absent) > 1 else "")
            raise DataError("layers of the plan", got=got, expected="int8 or float for each layer of the tokenizer")
        scores = [product.layer for product in self.int8(products) if product.role == "scores"]
        if self.activations == "int8" and scores:
            expected = "float: scores in INT8, ranked again, gained nothing and were taken out"
            raise UsageError(
                f"layer {scores[0]} of the plan", got="int8", expected=expected, remedy="write float there"
            )
        weightless = [product.layer for product in self.int8(products) if not product.has_weight]
        if self.activations == "float" and weightless:
            expected = "float: it has no weights to store, and activations stay float"
            raise UsageError(f"layer {weightless[0]} of the plan", got="int8", expected=expected)

    def int8(self, products: Sequence[Product]) -> list[Product]:
        """The products that are to be INT8."""
        return [product for product in products if self.layers[product.layer] == "int8"]

    def with_layers(self, changes: Mapping[str, LayerPrecision]) -> Self:
        """The same plan, with other precisions for some layers."""
        return self.model_copy(update={"layers": _in_order({**self.layers, **changes})})

    def kept_float(self, products: Sequence[Product]) -> tuple[KeptFloat, ...]:
        """What stays in float and why, for the manifest: one entry for all layers whose names end alike."""
        reasons = FLOAT_BY_DEFAULT if self.activations == "int8" else STORED_FLOAT_BY_DEFAULT
        kinds = {product.layer: product.kind for product in products}
        alike: dict[tuple[str, str], list[str]] = {}
        for layer, precision in self.layers.items():
            if precision == "float":
                alike.setdefault((_last(layer), reasons.get(kinds[layer], "the plan keeps it")), []).append(layer)
        return tuple(
            KeptFloat(
                layer=last if len(layers) == sum(_last(layer) == last for layer in self.layers) else ", ".join(layers),
                reason=reason,
            )
            for (last, reason), layers in alike.items()
        )


def _last(layer: str) -> str:
    return layer.rpartition(".")[2]
