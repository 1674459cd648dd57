"""INT8 in Core ML programs: quantized inputs of matrix products, weights as INT8, and large tables as FP16.

The pairs stand where the ONNX graphs have theirs, with the ranges that were observed there: both programs are traced
from one module, so a layer takes in the same tensor. coremltools' own tools come close and do not fit: its activations
are observed on a Mac, and not where two of them are multiplied; its weights divide zero by zero where an output channel
is all zeros. What it writes for both is what is written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqrae.calibration.layers import Product
from vqrae.calibration.recipe import GraphRecipe, StoredWeight
from vqrae.calibration.weights import LARGE, LARGEST, int8_from_float
from vqrae.runtimes.backends.coreml_spec import PRODUCTS
from vqrae.runtimes.backends.coreml_tools import ct
from vqrae.runtimes.errors import RuntimeUnavailable

mil = ct.converters.mil.mil
mb = ct.converters.mil.Builder
GraphPass: Any = mil.passes.graph_pass.AbstractGraphPass


def product_layers(products: Sequence[Product], modules: Mapping[str, str]) -> dict[str, str]:
    """Which layer each matrix product of a program is of; of several in one module, in the order that they run in.

    Args:
        products: of the graph in ONNX, which was traced from the same module.
        modules: matrix product of the program, in the order that they run in -> the module that multiplies.

    Raises:
        RuntimeUnavailable: the program has other matrix products than the graph.
    """
    left: dict[str, list[str]] = {}
    for product in products:
        left.setdefault(product.module, []).append(product.layer)
    found = {name: left[module].pop(0) for name, module in modules.items() if left.get(module)}
    if len(found) < len(modules) or any(left.values()):
        got, expected = f"{len(modules)} matrix products", f"the {len(products)} of the graph in ONNX"
        raise RuntimeUnavailable("program at INT8", got=got, expected=expected, remedy="export to another format")
    return found


def pipeline(recipe: GraphRecipe | None, layers: dict[str, str], *, half: bool) -> Any:
    """Coremltools' default passes, and behind them those of INT8, where nothing undoes their work.

    Args:
        recipe: what becomes INT8, if anything does.
        layers: matrix product of the program -> its layer; those that become INT8 are added by their new names.
        half: whether everything else is what the FP16 bundle has, its large FP32 tables and weights stored as FP16.
    """
    passes = ct.PassPipeline.DEFAULT
    if recipe is not None:
        passes.append_pass("vqrae::quantize_products")
        passes.set_options("vqrae::quantize_products", {"recipe": recipe, "layers": layers, "half": half})
        passes.append_pass("common::dead_code_elimination")
    return passes


@mil.passes.pass_registry.register_pass(namespace="vqrae")
class quantize_products(GraphPass):  # type: ignore[misc] # noqa: N801 - coremltools has no types; named as its passes are
    """Rewrites the program's matrix products, then its large FP32 constants."""

    recipe: GraphRecipe
    layers: dict[str, str]
    half: bool

    def __init__(self) -> None:
        super().__init__()
        self.recipe = GraphRecipe.of_weights([], [])
        self.layers = {}
        self.half = False

    def apply(self, prog: Any) -> None:
        """Change a program in place.

        Raises:
            ValueError: it has a matrix product that the traced program had not.
        """
        block = prog.functions["main"]
        operations = [operation for operation in block.operations if operation.op_type in PRODUCTS]
        with block:
            for operation in operations:
                layer = self.layers.get(operation.outputs[0].name)
                if layer is None:
                    raise ValueError(f"the matrix product {operation.name}, which was not traced")
                if layer in self.recipe.reaches:
                    weight = self.recipe.weights.get(layer)
                    new = _quantize(block, operation, self.recipe.reaches[layer], weight)
                    self.layers[new.name] = layer
            if self.half:
                _store_in_half(block)


def _quantize(block: Any, operation: Any, reaches: tuple[float, ...], weight: StoredWeight | None) -> Any:
    """Put a product in this one's place whose inputs come from INT8; what it gives."""
    inputs = dict(operation.inputs)
    for name, reach in zip(("x", "y"), reaches, strict=False):
        inputs[name] = _rounded(inputs[name], reach, operation)
    if operation.op_type == "linear":
        inputs["weight"] = _stored(inputs["weight"], operation, weight)
    old = operation.outputs[0]
    new = getattr(mb, operation.op_type)(**inputs, name=operation.name, before_op=operation)
    block.replace_uses_of_var_after_op(anchor_op=operation, old_var=old, new_var=new)
    block.remove_ops([operation])
    return new


def _rounded(activation: Any, reach: float, operation: Any) -> Any:
    """An activation by way of int8 around zero."""
    dtype = mil.types.nptype_from_builtin(activation.dtype)
    tiny = np.finfo(dtype).tiny  # no subnormal number, which a device may take for zero
    scale = dtype(max(reach / LARGEST[8], tiny))
    name = f"{operation.name}_{activation.name}"
    whole = mb.quantize(
        input=activation, scale=scale, output_dtype="int8", name=f"{name}_quantized", before_op=operation
    )
    return mb.dequantize(input=whole, scale=scale, name=f"{name}_dequantized", before_op=operation)


def _stored(weight: Any, operation: Any, rounded: StoredWeight | None) -> Any:
    """A weight as int8 around zero, with a scale for each output channel; the same numbers as in ONNX."""
    if rounded is None:
        stored_CO, scale_O = int8_from_float(weight.val.T.astype(np.float32))
    else:
        stored_CO, scale_O = rounded.whole_CO, rounded.scale_O
    return mb.constexpr_affine_dequantize(
        quantized_data=np.ascontiguousarray(stored_CO.T),
        zero_point=np.int8(0),
        scale=scale_O.astype(weight.val.dtype),
        axis=0,
        name=f"{operation.name}_{weight.name}_int8",
        before_op=operation,
    )


def _store_in_half(block: Any) -> None:
    """Replace large FP32 constants, where FP16 can hold them; what reads them still reads FP32."""
    for operation in list(block.operations):
        if operation.op_type != "const":
            continue
        variable = operation.outputs[0]
        values = variable.val
        if not (isinstance(values, np.ndarray) and values.dtype == np.float32 and values.size >= LARGE):
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        half = mb.constexpr_cast(
            source_val=values.astype(np.float16), output_dtype="fp32", name=f"{variable.name}_half", before_op=operation
        )
        block.replace_uses_of_var_after_op(anchor_op=operation, old_var=variable, new_var=half, no_check_var_types=True)
