"""The precision of Core ML packages, read back from what coremltools has written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from vqrae.calibration.layers import check_int8, int8_share
from vqrae.calibration.recipe import Int8Recipe
from vqrae.runtimes.backends.coreml_spec import PRODUCTS, dtype_name, matrix_products, operations
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.precision import PRECISIONS, Precision, PrecisionName

LAYERS = {"layer_norm": "LayerNorm", "reduce_mean": "LayerNorm", "softmax": "softmax", "add": "residual stream"}
"""Operation type -> the layer of `KEPT_IN_FP16` that it belongs to; an RMS norm comes apart into a mean and more."""
_DTYPES = {"fp32": "float32", "fp16": "float16"}


class BuiltOperation(NamedTuple):
    """One operation that computes in floats."""

    name: str
    layer: str
    """Of `KEPT_IN_FP16`, or `matrix product`."""
    dtype: str


def built_precision(asked: Precision, specs: Mapping[str, Any], scores: Mapping[str, Collection[str]]) -> Precision:
    """What was built: the precision that was asked for, and the layers that are in FP32 all the same.

    Args:
        asked: of floats, with what is kept in FP32.
        specs: graph's name -> specification of its package.
        scores: the same -> the matrix products in it that score the codes.

    Raises:
        RuntimeUnavailable: a matrix product, other than the scores, is of another precision.
    """
    wanted = _DTYPES[asked.kind.activations]
    found: dict[str, set[str]] = defaultdict(set)
    for name, spec in specs.items():
        for operation in _built(spec, scores[name]):
            found[operation.layer].add(operation.dtype)
            if operation.layer == "matrix product" and operation.dtype != wanted:
                got, expected = f"a matrix product in {operation.dtype}", f"{wanted}, which was asked for"
                raise RuntimeUnavailable(
                    f"{name}.mlpackage, {operation.name}", got=got, expected=expected, remedy="report it"
                )
    kept = tuple(layer for layer in asked.kept_float if found[layer.layer] == {"float32"})
    return Precision(name=asked.name, kept_float=kept)


def built_int8(
    asked: PrecisionName, recipe: Int8Recipe, specs: Mapping[str, Any], layers: Mapping[str, Mapping[str, str]]
) -> Precision:
    """What was built: which products take their inputs from INT8, and what share of the multiplications they do.

    Args:
        asked: a precision whose weights are whole numbers.
        recipe: what was asked for.
        specs: graph's name -> specification of its package.
        layers: the same -> what each matrix product is called in the package, and its layer.

    Raises:
        RuntimeUnavailable: a layer did not become what was planned.
    """
    plan = recipe.plan
    wanted = (plan.activations == "int8", True)
    found: list[str] = []
    for name, spec in specs.items():
        products = recipe.graphs[name].products
        made = [layers[name][built.name] for built in matrix_products(spec) if built.from_int8 == wanted]
        check_int8(f"{name}.mlpackage", made, [product.layer for product in plan.int8(products)])
        found += made
    whole = [product for graph in recipe.graphs.values() for product in graph.products]
    share = int8_share(whole, found) if PRECISIONS[asked].integer_products else None
    return Precision(name=asked, kept_float=plan.kept_float(whole), int8_share=share)


def _built(spec: Any, scores: Collection[str]) -> Iterator[BuiltOperation]:
    """The operations that `LAYERS` and `PRODUCTS` name."""
    for operation in operations(spec):
        output = operation.outputs[0]
        dtype = dtype_name(output.type.tensorType)
        if not dtype.startswith("float"):
            continue
        if operation.type in PRODUCTS:
            yield BuiltOperation(output.name, "scores" if output.name in scores else "matrix product", dtype)
        elif operation.type in LAYERS:
            yield BuiltOperation(output.name, LAYERS[operation.type], dtype)
