"""The INT8 graphs of one tokenizer, in ONNX: its traced graphs with Q/DQ, by a plan, from calibration images."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from vqrae.calibration.carried import Carried
from vqrae.calibration.images import CalibrationImages
from vqrae.calibration.int8_graph import Int8Graph
from vqrae.calibration.layers import Product, check_int8, int8_layers, int8_share
from vqrae.calibration.plan import PLAN_FILE, PrecisionPlan, Scheme
from vqrae.calibration.trials import GraphName
from vqrae.calibration.weights import ADDED_BITS, LOOKUP_BITS, store_constants
from vqrae.export.onnx_graph import TracedOnnx
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Calibration, GraphSpec, Precision, RuntimeInfo
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import Sealed

GRAPHS: tuple[GraphName, ...] = ("encode", "decode")


class CalibratedOnnx(Closing):
    """INT8 graphs for any plan and scheme. The images are observed once for all of them."""

    def __init__(self, traced: TracedOnnx, images: CalibrationImages, codebook_size: int) -> None:
        """`traced` gives the FP32 graphs, and is closed by its owner."""
        self._traced = traced
        self._folder, self._specs = traced.graphs("fp32", "batch", split=False)
        self._images = images
        self._codebook_size = codebook_size
        self._temporary = TemporaryDirectory(prefix="vqrae-calibrated-")
        self._written = 0

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """What the FP32 graph makes of the calibration images, (B, h, w): what the decoder is calibrated on."""
        spec = self._specs["encode"]
        written, runtime = Sealed.in_place(self._folder), RuntimeInfo(name="onnxruntime", built_with={})
        with session_class("onnxruntime").open(written, spec, LoadOptions(), runtime) as session:
            parts = [session.run({"images": image[None]})["indices"] for image in self._images.images]
        return np.concatenate(parts)

    @cached_property
    def quantizers(self) -> dict[str, Int8Graph]:
        """One for `encode` and one for `decode`."""
        inputs: dict[str, NDArray[Any]] = {"encode": self._images.images, "decode": self.indices}
        return {name: Int8Graph(self._folder / self._specs[name].file, inputs[name]) for name in GRAPHS}

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """The matrix products of both graphs."""
        return tuple(product for quantizer in self.quantizers.values() for product in quantizer.products)

    @property
    def graph_products(self) -> dict[str, tuple[Product, ...]]:
        """The same of each graph."""
        return {name: quantizer.products for name, quantizer in self.quantizers.items()}

    def carried(self, name: str, plan: PrecisionPlan) -> Carried:
        """What one graph's INT8 is made with, for a format that is not made from ONNX.

        Raises:
            CheckpointError: an activation holds no numbers, or only one.
        """
        return self.quantizers[name].carried(plan)

    def float_graph(self, name: str) -> tuple[Path, GraphSpec]:
        """The traced FP32 graph and its spec."""
        return self._folder / self._specs[name].file, self._specs[name]

    def write(self, name: str, plan: PrecisionPlan, path: Path) -> GraphSpec:
        """Write one INT8 graph, for a trial; its spec."""
        self._write(name, plan, "asymmetric", path)
        return self._specs[name].model_copy(update={"file": path.name, "extra_files": ()})

    def graphs(self, plan: PrecisionPlan, scheme: Scheme) -> tuple[Path, dict[str, GraphSpec], Precision]:
        """A folder with the INT8 graphs, their specs, and what is really INT8 in them.

        Raises:
            UsageError: the plan is for another architecture.
            DataError: it leaves a layer out.
            CheckpointError: an activation holds no numbers, or only one.
            RuntimeUnavailable: a layer did not become what was planned.
        """
        plan.check(self.products)
        folder = Path(self._temporary.name) / str(self._written)
        folder.mkdir()
        self._written += 1
        found: list[str] = []
        for name in GRAPHS:
            quantizer = self.quantizers[name]
            path = folder / self._specs[name].file
            self._write(name, plan, scheme, path)
            layers = int8_layers(path, quantizer.products)
            check_int8(path.name, layers, [product.layer for product in plan.int8(quantizer.products)])
            found += layers
        share = int8_share(self.products, found)
        specs: dict[str, GraphSpec] = {
            name: self._specs[name].model_copy(update={"extra_files": ()}) for name in GRAPHS
        }
        return folder, specs, Precision(name="int8", kept_float=plan.kept_float(), int8_share=share)

    def _write(self, name: str, plan: PrecisionPlan, scheme: Scheme, path: Path) -> None:
        self.quantizers[name].write(plan, scheme, path)
        if plan.storage == "compact":
            model = onnx.load(path)
            store_constants(model, scheme, lookup_bits=LOOKUP_BITS[name], added_bits=ADDED_BITS[name])
            onnx.save(model, path)
            onnx.checker.check_model(str(path), full_check=True)

    def provenance(self) -> Calibration:
        """Where the ranges come from, for the manifest."""
        images = self._images
        return Calibration(
            image_sha256=images.sha256,
            count=len(images.images),
            seed=images.seed,
            codebook_coverage=len(np.unique(self.indices)) / self._codebook_size,
            plan=PLAN_FILE,
        )

    def close(self) -> None:
        """Delete the graphs."""
        for quantizer in self.__dict__.get("quantizers", {}).values():
            quantizer.close()
        self._temporary.cleanup()
