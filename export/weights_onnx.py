"""The graphs of one tokenizer with weights stored in INT8, in ONNX: its traced graphs, no image observed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from vqrae.calibration.layers import Product, check_int8, int8_layers, matrix_products
from vqrae.calibration.plan import PrecisionPlan, Scheme
from vqrae.calibration.weights import ADDED_BITS, LOOKUP_BITS, store_constants, store_in_int8
from vqrae.export.onnx_graph import TracedOnnx
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.manifest import GraphSpec, Precision


class WeightsOnnx(Closing):
    """Graphs for any plan whose activations stay float."""

    def __init__(self, traced: TracedOnnx) -> None:
        """`traced` gives the FP32 graphs, and is closed by its owner."""
        self._folder, self._specs = traced.graphs("fp32", "batch", split=False)
        self._temporary = TemporaryDirectory(prefix="vqrae-weights-")
        self._written = 0

    @cached_property
    def graph_products(self) -> dict[str, tuple[Product, ...]]:
        """The matrix products of each graph."""
        return {name: matrix_products(self._folder / spec.file) for name, spec in self._specs.items()}

    @property
    def products(self) -> tuple[Product, ...]:
        """The matrix products of both graphs."""
        return tuple(product for products in self.graph_products.values() for product in products)

    def graphs(self, plan: PrecisionPlan, scheme: Scheme) -> tuple[Path, dict[str, GraphSpec], Precision]:
        """A folder with the graphs, their specs, and what stays in float in them.

        Raises:
            UsageError: the plan is for another architecture, or stores weights where there are none.
            DataError: it leaves a layer out.
            RuntimeUnavailable: a layer did not become what was planned.
        """
        plan.check(self.products)
        folder = Path(self._temporary.name) / str(self._written)
        folder.mkdir()
        self._written += 1
        for name, spec in self._specs.items():
            chosen, path = plan.int8(self.graph_products[name]), folder / spec.file
            model = onnx.load(self._folder / spec.file)
            store_in_int8(model, chosen)
            if plan.storage == "compact":
                store_constants(model, scheme, lookup_bits=LOOKUP_BITS[name], added_bits=ADDED_BITS[name])
            onnx.save(model, path)
            onnx.checker.check_model(str(path), full_check=True)
            found = int8_layers(path, self.graph_products[name], plan.activations)
            check_int8(path.name, found, [product.layer for product in chosen])
        specs = {name: spec.model_copy(update={"extra_files": ()}) for name, spec in self._specs.items()}
        return folder, specs, Precision(name="int8-weights", kept_float=plan.kept_float())

    def close(self) -> None:
        """Delete the graphs."""
        self._temporary.cleanup()
