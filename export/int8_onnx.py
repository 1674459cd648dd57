"""The INT8 graphs of one tokenizer, in ONNX: its traced graphs with Q/DQ, or with weights stored in INT8, by a plan."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from vqrae.calibration.images import CalibrationImages
from vqrae.calibration.layers import Product, Role, check_int8, int8_layers, int8_share, matrix_products
from vqrae.calibration.plan import PLAN_FILE, PrecisionPlan, Scheme
from vqrae.calibration.recipe import GraphRecipe, Int8Recipe
from vqrae.calibration.weights import ADDED_BITS, LOOKUP_BITS, store_constants, store_in_int8
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.code_space import by_token
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Calibration, GraphSpec, RuntimeInfo
from vqrae.runtimes.precision import Precision, PrecisionName
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import Sealed

if TYPE_CHECKING:
    from vqrae.calibration.int8_graph import Int8Graph  # brings ONNX Runtime, which only calibration needs


class Int8Onnx(Closing):
    """INT8 graphs for any plan and scheme. The images are observed once for all of them."""

    def __init__(
        self,
        folder: Path,
        specs: Mapping[str, GraphSpec],
        roles: Mapping[str, Mapping[str, Role]],
        images: CalibrationImages | None,
    ) -> None:
        """Read the matrix products.

        Args:
            folder: of the traced FP32 graphs, which outlive this.
            specs: of the graphs, by name.
            roles: of their modules, by the same names.
            images: to calibrate on; a plan whose activations stay float needs none.
        """
        self._folder = folder
        self._specs = dict(specs)
        self._images = images
        self._roles = roles
        self.products = {name: matrix_products(folder / spec.file, roles[name]) for name, spec in specs.items()}
        """Graph -> its matrix products."""
        self._opened = ExitStack()
        self._temporary = Path(self._opened.enter_context(TemporaryDirectory(prefix="vqrae-int8-")))
        self._written = 0

    @property
    def all_products(self) -> tuple[Product, ...]:
        """The matrix products of all graphs."""
        return tuple(product for products in self.products.values() for product in products)

    @property
    def images(self) -> CalibrationImages:
        """What is calibrated on.

        Raises:
            UsageError: there are none.
        """
        if self._images is None:
            remedy = "pass --calibration FOLDER"
            raise UsageError("int8", got="no calibration images", expected="some", remedy=remedy)
        return self._images

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """What the FP32 graph makes of the calibration images, (B, h, w): what the decoder is calibrated on."""
        if "encode" not in self._specs:
            remedy = "store weights in int8: --weight-only"
            raise UsageError("int8", got="a tokenizer that only decodes", expected="codes of images", remedy=remedy)
        written, runtime = Sealed.in_place(self._folder), RuntimeInfo(name="onnxruntime", built_with={})
        backend = session_class(runtime.name)
        with backend.open(written, self._specs["encode"], LoadOptions(), runtime) as session:
            parts = [session.run({"images": image[None]})["indices"] for image in self.images.images]
        return np.concatenate(parts)

    @cached_property
    def graphs(self) -> dict[str, Int8Graph]:
        """What makes each graph's INT8 from what is observed."""
        from vqrae.calibration.int8_graph import Int8Graph

        inputs: dict[str, NDArray[Any]] = {"encode": self.images.images, "decode": self.indices}
        return {
            name: self._opened.enter_context(Int8Graph(self._folder / spec.file, inputs[name], self._roles[name]))
            for name, spec in self._specs.items()
        }

    def float_graph(self, name: str) -> tuple[Path, GraphSpec]:
        """The traced FP32 graph and its spec."""
        return self._folder / self._specs[name].file, self._specs[name]

    def write(self, name: str, plan: PrecisionPlan, scheme: Scheme, path: Path) -> GraphSpec:
        """Write one graph by a plan that fits; its spec.

        Raises:
            CheckpointError: an activation holds no numbers, or only one.
        """
        if plan.activations == "int8":
            self.graphs[name].write(plan, scheme, path)
            model = onnx.load(path)
        else:
            model = onnx.load(self._folder / self._specs[name].file)
            store_in_int8(model, plan.int8(self.products[name]))
        if plan.storage == "compact":
            store_constants(model, scheme, lookup_bits=LOOKUP_BITS[name], added_bits=ADDED_BITS[name])
        onnx.save(model, path)
        onnx.checker.check_model(str(path), full_check=True)
        return self._specs[name].model_copy(update={"file": path.name, "extra_files": ()})

    def written(
        self, plan: PrecisionPlan, scheme: Scheme, precision: PrecisionName
    ) -> tuple[Path, dict[str, GraphSpec], Precision]:
        """A folder with the graphs of a plan, their specs, and what is really INT8 in them.

        Raises:
            UsageError: the plan is for another architecture, or asks for what is not done.
            DataError: it leaves a layer out.
            CheckpointError: an activation holds no numbers, or only one.
            RuntimeUnavailable: a layer did not become what was planned.
        """
        plan.check(self.all_products)
        folder = self._temporary / str(self._written)
        folder.mkdir()
        self._written += 1
        specs, found = {}, list[str]()
        for name, products in self.products.items():
            path = folder / self._specs[name].file
            specs[name] = self.write(name, plan, scheme, path)
            layers = int8_layers(path, products, plan.activations)
            check_int8(path.name, layers, [product.layer for product in plan.int8(products)])
            found += layers
        share = int8_share(self.all_products, found) if plan.activations == "int8" else None
        return folder, specs, Precision(name=precision, kept_float=plan.kept_float(self.all_products), int8_share=share)

    def recipe(self, plan: PrecisionPlan, byte_scale: float) -> Int8Recipe:
        """What the graphs of a plan are made of, for a format that is not made from ONNX; errors as for `written`.

        Args:
            plan: of all graphs.
            byte_scale: what bytes are multiplied with in the graphs that it is for (`Form.byte_scale`).
        """
        plan.check(self.all_products)
        graphs = {name: self._graph_recipe(name, plan).with_bytes_times(byte_scale) for name in self._specs}
        return Int8Recipe(plan=plan, graphs=graphs)

    def _graph_recipe(self, name: str, plan: PrecisionPlan) -> GraphRecipe:
        if plan.activations == "int8":
            return self.graphs[name].recipe(plan)
        return GraphRecipe.of_weights(self.products[name], plan.int8(self.products[name]))

    def provenance(self, codebook_size: int) -> Calibration:
        """Where the ranges come from, for the manifest."""
        used = [np.unique(codes) for codes in by_token(self.indices).T]
        return Calibration(
            image_sha256=self.images.sha256,
            count=len(self.images.images),
            seed=self.images.seed,
            codebook_coverage=sum(map(len, used)) / (codebook_size * len(used)),
            plan=PLAN_FILE,
        )

    def close(self) -> None:
        """Delete the graphs."""
        self._opened.close()
