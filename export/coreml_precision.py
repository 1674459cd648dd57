"""The precision of Core ML packages, read back from what coremltools has written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vqrae.calibration.layers import Product, check_int8, int8_share
from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.form import FORMS
from vqrae.runtimes.backends.coreml_spec import PRODUCTS, dtype_name, matrix_products, operands, operations
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import Precision
from vqrae.runtimes.precision import PRECISIONS, PrecisionName

LAYERS = {"layer_norm": "LayerNorm", "reduce_mean": "LayerNorm", "softmax": "softmax", "add": "residual stream"}
"""Operation type -> the layer of `KEPT_IN_FP16` that it belongs to; an RMS norm comes apart into a mean and more."""
_DTYPES = {"fp32": "float32", "fp16": "float16"}


class BuiltOperation(NamedTuple):
    """One operation that computes in floats."""

    name: str
    layer: str
    """Of `KEPT_IN_FP16`, or `matrix product`."""
    dtype: str


def built_precision(asked: PrecisionName, specs: Mapping[str, Any]) -> Precision:
    """What was built: the precision that was asked for, and the layers that are in FP32 all the same.

    Args:
        asked: `fp32` or `fp16`.
        specs: graph's name -> specification of its package.

    Raises:
        RuntimeUnavailable: a matrix product, other than the scores, is of another precision.
    """
    wanted = _DTYPES[PRECISIONS[asked].activations]
    found: dict[str, set[str]] = defaultdict(set)
    for name, spec in specs.items():
        for operation in _built(spec):
            found[operation.layer].add(operation.dtype)
            if operation.layer == "matrix product" and operation.dtype != wanted:
                got, expected = f"a matrix product in {operation.dtype}", f"{wanted}, which was asked for"
                raise RuntimeUnavailable(
                    f"{name}.mlpackage, {operation.name}", got=got, expected=expected, remedy="report it"
                )
    kept = tuple(layer for layer in FORMS[asked].kept_float if found[layer.layer] == {"float32"})
    return Precision(name=asked, kept_float=kept)


def built_int8(
    asked: PrecisionName, plan: PrecisionPlan, specs: Mapping[str, Any], products: Mapping[str, Sequence[Product]]
) -> Precision:
    """What was built: which products take their inputs from INT8, and what share of the multiplications they do.

    Args:
        asked: `int8` or `int8-weights`.
        plan: what was asked for.
        specs: graph's name -> specification of its package.
        products: graph's name -> its matrix products, in the order that they run in.

    Raises:
        RuntimeUnavailable: a layer did not become what was planned.
    """
    wanted = (plan.activations == "int8", True)
    found: list[str] = []
    for name, spec in specs.items():
        pairs = zip(products[name], matrix_products(spec), strict=True)
        layers = [product.layer for product, built in pairs if built.from_int8 == wanted]
        check_int8(f"{name}.mlpackage", layers, [product.layer for product in plan.int8(products[name])])
        found += layers
    whole = [product for parts in products.values() for product in parts]
    share = int8_share(whole, found) if PRECISIONS[asked].integer_products else None
    return Precision(name=asked, kept_float=plan.kept_float(), int8_share=share)


def _built(spec: Any) -> Iterator[BuiltOperation]:
    """The operations that `LAYERS` and `PRODUCTS` name; the product whose slices a maximum searches is the scores."""
    sliced = {op.outputs[0].name: operands(op) for op in operations(spec) if op.type == "reshape"}
    slices = {name for op in operations(spec) if op.type == "reduce_max" for name in operands(op)}
    searched = {name for output in slices & sliced.keys() for name in sliced[output]}
    for operation in operations(spec):
        output = operation.outputs[0]
        dtype = dtype_name(output.type.tensorType)
        if not dtype.startswith("float"):
            continue
        if operation.type in PRODUCTS:
            yield BuiltOperation(output.name, "scores" if output.name in searched else "matrix product", dtype)
        elif operation.type in LAYERS:
            yield BuiltOperation(output.name, LAYERS[operation.type], dtype)
