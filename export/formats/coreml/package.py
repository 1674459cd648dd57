"""Core ML packages from programs of `torch.export`: converted by coremltools, described, and read back.

The precision of every value is traced, as for the other formats, so coremltools' own FP16 pass stays out of it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vqrae.calibration.recipe import Int8Recipe
from vqrae.export.batch import Batch
from vqrae.export.formats.coreml import CoreMLOptions
from vqrae.export.formats.coreml.int8 import pipeline, product_layers
from vqrae.export.formats.coreml.metadata import write_metadata
from vqrae.export.formats.coreml.readback import built_int8, built_precision
from vqrae.export.formats.format import INSIDE
from vqrae.export.job import ExportJob, Written
from vqrae.export.onnx_graph import quiet_exporter
from vqrae.runtimes.backends.coreml_spec import read_spec
from vqrae.runtimes.backends.coreml_tools import TITLE, ct, quiet_coremltools
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import BatchLimits, GraphSpec, RuntimeInfo, TensorSpec

DYNAMIC_LIMITS = BatchLimits(least=1, best=1, most=32)
"""What a dynamic batch takes: Core ML wants to know the most."""
TARGETS = {"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}
_ELSEWHERE = "export to another format"

torch_frontend = ct.converters.mil.frontend.torch


def write_packages(job: ExportJob, options: CoreMLOptions) -> Written:
    """Convert every graph of a job; see `formats.format.Format.write`."""
    recipe = None if job.recipe is None else Int8Recipe.read(job.recipe, job.graphs)
    packages = {}
    for name in job.graphs:
        packages[name] = write_package(job, name, options, recipe)
        gc.collect()  # traced graphs refer to themselves, and a large one must be gone before the next
    graphs = {name: made.graph for name, made in packages.items()}
    layers = {name: made.layers for name, made in packages.items()}
    specs = {name: read_spec(job.folder / graph.file) for name, graph in graphs.items()}
    if recipe is None:
        scores = {
            name: [product for product, module in of_graph.items() if module in job.scores[name]]
            for name, of_graph in layers.items()
        }
        precision = built_precision(job.precision, specs, scores)
    else:
        precision = built_int8(job.precision.name, recipe, specs, layers)
    runtime = RuntimeInfo(
        name="coreml",
        built_with={**job.made_with, "coremltools": version("coremltools")},
        options={"inputs": options.inputs, "target": options.target},
    )
    return Written(graphs=graphs, precision=precision, runtime=runtime)


class Package(NamedTuple):
    """What was written of one graph."""

    graph: GraphSpec
    layers: dict[str, str]
    """Matrix product of the package -> its layer, or of floats, the module that multiplies."""


def write_package(job: ExportJob, name: str, options: CoreMLOptions, recipe: Int8Recipe | None) -> Package:
    """Convert and describe one graph of a job; its package is the folder `<name>.mlpackage`.

    Raises:
        RuntimeUnavailable: coremltools lacks an operator, and then names the node and the model's layer, or fails.
    """
    spec = job.graphs[name]
    carrier = "image" if options.inputs == "image" else "float32"
    carriers = {tensor.name: carrier for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype == "uint8"}
    limits = job.batch.limits(DYNAMIC_LIMITS)
    written = spec.model_copy(update={"file": f"{name}.mlpackage", "carriers": carriers, "batch_limits": limits})
    program = torch.export.load(job.sources / spec.file)
    modules = product_modules(program, spec)
    layers = modules if recipe is None else product_layers(recipe.graphs[name].products, modules)
    passes = pipeline(recipe.graphs[name] if recipe else None, layers, half=recipe is not None and recipe.half)
    package_from_program(program, job.folder / written.file, written, job.batch, options, passes)
    write_metadata(job.folder / written.file, written, job, options)
    return Package(written, layers)


def product_modules(program: torch.export.ExportedProgram, spec: GraphSpec) -> dict[str, str]:
    """The matrix products of a traced graph, by the names that they have in the package -> the module of each."""
    outputs = dict(zip(program.graph_signature.user_outputs, (tensor.name for tensor in spec.outputs), strict=True))
    found = {}
    for node in program.graph.nodes:
        if node.target in (torch.ops.aten.linear.default, torch.ops.aten.matmul.default):
            *_, (module, _) = node.meta["nn_module_stack"].values()
            found[outputs.get(node.name, node.name)] = module.removeprefix(f"{INSIDE}.")
    return found


def package_from_program(
    program: torch.export.ExportedProgram,
    path: Path,
    spec: GraphSpec,
    batch: Batch,
    options: CoreMLOptions,
    passes: Any,
) -> None:
    """Convert a traced graph and write the package as `path`, a folder that ends in `.mlpackage`.

    Args:
        program: of one input.
        path: where the package goes.
        spec: names, shapes and carriers of what enters and leaves.
        batch: the batch axis.
        options: of the format.
        passes: see `int8.pipeline`.

    Raises:
        RuntimeUnavailable: coremltools lacks an operator, and then names the node and the model's layer, or fails.
    """
    _check_operators(program, path)
    try:
        with quiet_exporter(), quiet_coremltools(), _tanh_gelu():
            ct.convert(
                program,
                convert_to="mlprogram",
                inputs=[_input(tensor, spec.carriers, batch) for tensor in spec.inputs],
                outputs=[_output(tensor, spec.carriers) for tensor in spec.outputs],
                minimum_deployment_target=TARGETS[options.target],
                compute_precision=ct.precision.FLOAT32,  # leaves every dtype as it was traced
                pass_pipeline=passes,
                skip_model_load=True,
                package_dir=str(path),
            )
    except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        got = f"{TITLE} cannot convert it ({error})"
        raise RuntimeUnavailable(path.stem, got=got, remedy=_ELSEWHERE) from error


@contextmanager
def _tanh_gelu() -> Iterator[None]:
    """While coremltools converts, `aten.gelu` is what it says.

    9.0 drops the keyword `approximate`, and makes every tanh form the exact one.
    """
    converters = torch_frontend.torch_op_registry._TORCH_OPS_REGISTRY.name_to_func_mapping
    dropping = converters["gelu"]
    converters["gelu"] = _gelu
    try:
        yield
    finally:
        converters["gelu"] = dropping


def _gelu(context: Any, node: Any) -> None:
    (approximate,) = (node.kwinputs or {}).get("approximate", ("none",))
    mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[approximate]
    context.add(ct.converters.mil.Builder.gelu(x=context[node.inputs[0]], mode=mode, name=node.name))


def _check_operators(program: torch.export.ExportedProgram, path: Path) -> None:
    converter_of = torch_frontend.torch_op_registry._TORCH_OPS_REGISTRY.get_func
    for node in program.graph.nodes:
        if node.op == "call_function" and converter_of(node.target.__name__) is None:
            modules = [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name]
            layer = f" of the layer {modules[-1]}" if modules else ""
            raise RuntimeUnavailable(
                f"{path.stem}, node {node.name}{layer}",
                got=f"the operator {node.target}",
                expected="one that coremltools has",
                remedy=_ELSEWHERE,
            )


def _input(tensor: TensorSpec, carriers: Mapping[str, str], batch: Batch) -> Any:
    axis, *sides = tensor.shape
    carrier = carriers.get(tensor.name, tensor.dtype)
    if carrier == "image":
        height, width, channels = sides
        layout = (axis, channels, height, width)
        return ct.ImageType(name=tensor.name, shape=layout, color_layout=ct.colorlayout.RGB)
    limits = batch.limits(DYNAMIC_LIMITS)
    shape: Any
    if limits is None:
        shape = tensor.shape
    elif limits.only:
        shape = ct.EnumeratedShapes([(size, *sides) for size in limits.only])
    else:
        shape = (ct.RangeDim(limits.least, limits.most, default=limits.best), *sides)
    return ct.TensorType(name=tensor.name, shape=shape, dtype=np.dtype(carrier).type)


def _output(tensor: TensorSpec, carriers: Mapping[str, str]) -> Any:
    carrier = carriers.get(tensor.name, tensor.dtype)
    if carrier == "image":
        return ct.ImageType(name=tensor.name, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=tensor.name, dtype=np.dtype(carrier).type)
