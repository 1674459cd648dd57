"""The graphs that bundles are made from: traced, and at INT8 calibrated, once for all the formats that take them."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from vqrae.calibration.images import CalibrationImages
from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.deployable import Deployable
from vqrae.export.form import FORMS
from vqrae.export.formats import Target
from vqrae.export.int8_onnx import Int8Onnx
from vqrae.export.job import ExportJob
from vqrae.export.onnx_graph import TracedOnnx, traced_precision, tracer_versions
from vqrae.export.pt2 import program_from_plan, write_program
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.manifest import Calibration, GraphSpec
from vqrae.runtimes.precision import PRECISIONS, Precision


class Graphs(NamedTuple):
    """Graphs on disk."""

    folder: Path
    specs: dict[str, GraphSpec]
    precision: Precision
    made_with: dict[str, str]
    recipe: Path | None = None


class SourceGraphs(Closing):
    """Of one tokenizer."""

    def __init__(self, tokenizer: Deployable, images: CalibrationImages | None) -> None:
        """`images` are for targets that are calibrated."""
        self._tokenizer = tokenizer
        self._images = images
        self._opened = ExitStack()
        self._temporary = Path(self._opened.enter_context(TemporaryDirectory(prefix="vqrae-programs-")))
        self.onnx = self._opened.enter_context(TracedOnnx(tokenizer))
        self._written = 0

    @cached_property
    def int8(self) -> Int8Onnx:
        """What makes INT8 of the ONNX graphs."""
        folder, specs = self.onnx.graphs("fp32", "batch", split=False)
        roles = {graph.name: graph.roles for graph in self._tokenizer.graphs()}
        return self._opened.enter_context(Int8Onnx(folder, specs, roles, self._images))

    def plan(self, target: Target) -> PrecisionPlan | None:
        """Of a target whose weights are whole numbers: its own plan, or the default one."""
        return target.chosen_plan(self.int8.all_products) if PRECISIONS[target.precision].quantized else None

    def job(self, target: Target, plan: PrecisionPlan | None, folder: Path) -> ExportJob:
        """What a target's format is to write into a folder.

        Raises:
            UsageError: the plan is for another architecture, or asks for what is not done; or there are no images to
                calibrate on.
            DataError: the plan leaves a layer out.
            CheckpointError: an activation holds no numbers, or only one.
            RuntimeUnavailable: a layer did not become what was planned.
        """
        made = self._onnx_graphs(target, plan) if target.format.takes == "onnx" else self._program_graphs(target, plan)
        return ExportJob(
            folder=folder,
            sources=made.folder,
            graphs=made.specs,
            scores={plan.name: plan.scores for plan in self._tokenizer.graphs(split=target.split)},
            precision=made.precision,
            batch=target.batch,
            options=target.options.model_dump(mode="json", exclude_defaults=True),
            recipe=made.recipe,
            name=self._tokenizer.identity.name,
            preprocessing=self._tokenizer.preprocessing,
            tokens=self._tokenizer.tokens,
            made_with=made.made_with,
        )

    def provenance(self, target: Target) -> Calibration | None:
        """Where a target's ranges come from, for the manifest; None where nothing is observed."""
        needed = PRECISIONS[target.precision].needs_images
        return self.int8.provenance(self._tokenizer.tokens.codebook_size) if needed else None

    def _onnx_graphs(self, target: Target, plan: PrecisionPlan | None) -> Graphs:
        scheme, precision = target.format.scheme, target.precision
        if plan is not None:
            return Graphs(*self.int8.written(plan, scheme, precision), tracer_versions())
        if scheme == "asymmetric" and FORMS[precision].compute != FORMS[precision].kept:
            folder, specs = self.onnx.compact(precision, target.batch.axis, split=target.split)
        else:
            folder, specs = self.onnx.graphs(precision, target.batch.axis, split=target.split)
        return Graphs(folder, specs, traced_precision(precision), tracer_versions())

    def _program_graphs(self, target: Target, plan: PrecisionPlan | None) -> Graphs:
        folder = self._temporary / str(self._written)
        self._written += 1
        folder.mkdir()
        if plan is None:
            form, precision, recipe, parameters = FORMS[target.precision], traced_precision(target.precision), None, {}
        else:
            form, precision = FORMS["fp16" if plan.storage == "compact" else "fp32"], Precision(name=target.precision)
            recipe, made = folder / "recipe", self.int8.recipe(plan, form.byte_scale)
            recipe.mkdir()
            made.write(recipe)
            parameters = {name: graph.parameters for name, graph in made.graphs.items()}
        specs, images = {}, target.format.images(target.options)
        for graph in self._tokenizer.graphs(target.batch.axis, split=target.split):
            program = program_from_plan(graph, form, images, parameters.get(graph.name, {}))
            specs[graph.name] = write_program(program, graph, folder)
            del program
            gc.collect()  # traced graphs refer to themselves, and a large one must be gone before the next
        return Graphs(folder, specs, precision, {"torch": version("torch")}, recipe)

    def close(self) -> None:
        """Delete all graphs."""
        self._opened.close()
