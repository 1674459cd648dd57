"""Core ML packages from the deployed graphs: traced by PyTorch, converted by coremltools, and read back.

Core ML has no bytes at a graph's edge. Images are carried by whole float32 numbers, or with `inputs=image` by Core ML's
own RGB images; the session converts, and the manifest says how (`GraphSpec.carriers`). The precision of every value is
traced, as for the other formats, so coremltools' own FP16 pass stays out of it.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.bundle_graphs import GraphRequest, WrittenGraphs
from vqrae.export.coreml_int8 import GraphInt8, pipeline
from vqrae.export.coreml_metadata import write_metadata
from vqrae.export.coreml_precision import built_int8, built_precision
from vqrae.export.deployable import Deployable, GraphPlan
from vqrae.export.form import FORMS
from vqrae.export.formats import Batch, CoreMLOptions, Target
from vqrae.export.onnx_graph import quiet_exporter
from vqrae.runtimes.backends.coreml_spec import read_spec
from vqrae.runtimes.backends.coreml_tools import TITLE, ct, quiet_coremltools
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import BatchLimits, GraphSpec, RuntimeInfo, TensorSpec
from vqrae.runtimes.precision import PRECISIONS

Carriers = dict[str, Literal["float32", "int32", "image"]]

DYNAMIC_LIMITS = BatchLimits(least=1, best=1, most=32)
"""What a dynamic batch takes: Core ML wants to know the most."""
TARGETS = {"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}
_ELSEWHERE = "export to another format"

torch_frontend = ct.converters.mil.frontend.torch


def write_coreml(request: GraphRequest) -> WrittenGraphs:
    """The `GraphWriter` of the format `coreml`: one `<name>.mlpackage` folder per graph."""
    target, options = request.target, _options(request.target)
    quantized = request.written_plan() if PRECISIONS[target.precision].quantized else None
    graphs = {}
    for plan in request.tokenizer.graphs(target.batch.axis, split=target.split):
        int8 = None if quantized is None else graph_int8(plan.name, quantized, request)
        graphs[plan.name] = package_from_plan(plan, request.tokenizer, target, request.folder, int8)
        gc.collect()  # traced graphs refer to themselves, and a large one must be gone before the next
    built_with = {name: version(name) for name in ("torch", "coremltools")}
    runtime = RuntimeInfo(
        name="coreml", built_with=built_with, options={"inputs": options.inputs, "target": options.target}
    )
    specs = {name: read_spec(request.folder / graph.file) for name, graph in graphs.items()}
    if quantized is None:
        precision = built_precision(target.precision, specs)
    else:
        precision = built_int8(target.precision, quantized, specs, request.graph_products())
    return WrittenGraphs(graphs=graphs, precision=precision, runtime=runtime)


def graph_int8(name: str, plan: PrecisionPlan, request: GraphRequest) -> GraphInt8:
    """What one graph's INT8 is made of.

    Raises:
        UsageError: the plan is for another architecture, or stores weights where there are none.
        DataError: it leaves a layer out.
        CheckpointError: an activation holds no numbers, or only one.
    """
    products = request.graph_products()
    plan.check([product for parts in products.values() for product in parts])
    storage: Literal["fp16", "fp32"] = "fp16" if plan.storage == "compact" else "fp32"
    if request.calibrated is None:
        reaches: dict[str, tuple[float, ...]] = {product.layer: () for product in plan.int8(products[name])}
        return GraphInt8(products=products[name], reaches=reaches, storage=storage)
    found = request.calibrated.carried(name, plan)
    scale = FORMS[storage].byte_scale  # what was observed are bytes, as FP32 has them
    for product in products[name]:
        if product.group == "patch embedding" and product.layer in found.reaches:
            found.reaches[product.layer] = tuple(reach * scale for reach in found.reaches[product.layer])
            weight = found.weights[product.layer]
            found.weights[product.layer] = replace(weight, scale_O=(weight.scale_O / scale).astype(np.float32))
    return GraphInt8(
        products=products[name],
        reaches=found.reaches,
        weights=found.weights,
        smoothed=found.smoothed,
        corrected=found.corrected,
        storage=storage,
    )


def package_from_plan(
    plan: GraphPlan, tokenizer: Deployable, target: Target, folder: Path, int8: GraphInt8 | None = None
) -> GraphSpec:
    """Fold, trace, convert and describe one graph; its package is the folder `<name>.mlpackage`.

    Args:
        plan: of the graph.
        tokenizer: whose graph it is.
        target: precision, batch axis and options.
        folder: where the package goes.
        int8: what the graph's INT8 is made of, for a target at INT8.

    Raises:
        RuntimeUnavailable: coremltools lacks an operator, and then names the node and the model's layer, or fails.
    """
    options, path = _options(target), folder / f"{plan.name}.mlpackage"
    carrier: Literal["float32", "image"] = "image" if options.inputs == "image" else "float32"
    carriers: Carriers = {tensor.name: carrier for tensor in (plan.input, *plan.outputs) if tensor.dtype == "uint8"}
    package_from_program(program_from_plan(plan, target, int8), path, plan, carriers, target, int8)
    write_metadata(path, plan, tokenizer, options)
    return GraphSpec(
        file=path.name,
        inputs=(plan.input,),
        outputs=plan.outputs,
        carriers=carriers,
        batch_limits=target.batch.limits(DYNAMIC_LIMITS),
    )


class ImageEdges(nn.Module):
    """A deployed graph whose images are laid out as Core ML's own, (1, 3, H, W)."""

    def __init__(self, graph: nn.Module, plan: GraphPlan) -> None:
        super().__init__()
        self.inside = graph  # not `graph`, which is what traced modules call their own
        self.enters, self.leaves = (tensor.name == "images" for tensor in (plan.input, plan.outputs[0]))

    def forward(self, value: Tensor) -> Any:
        """What the graph gives."""
        given = self.inside(value.permute(0, 2, 3, 1) if self.enters else value)
        return given.permute(0, 3, 1, 2) if self.leaves else given


def program_from_plan(plan: GraphPlan, target: Target, int8: GraphInt8 | None = None) -> torch.export.ExportedProgram:
    """Fold and trace one graph, with what calibration made of its weights where it becomes INT8.

    Images are float32 at its edges, laid out as the target's options say.
    """
    form = replace(FORMS[int8.storage if int8 else target.precision], images=torch.float32)
    module, example = plan.module(form).eval(), plan.example()
    with torch.no_grad():
        for name, values in ({**int8.smoothed, **int8.corrected} if int8 else {}).items():
            module.get_parameter(name).copy_(torch.tensor(values))
    if example.dtype == torch.uint8:
        example = example.float()
    if _options(target).inputs == "image":
        module = ImageEdges(module, plan)
        example = example.permute(0, 3, 1, 2).contiguous() if module.enters else example
    with quiet_exporter():
        program = torch.export.export(module, (example,), dynamic_shapes=plan.dynamic_shapes())
        return program.run_decompositions({})


def package_from_program(
    program: torch.export.ExportedProgram,
    path: Path,
    plan: GraphPlan,
    carriers: Carriers,
    target: Target,
    int8: GraphInt8 | None = None,
) -> None:
    """Convert a traced graph and write the package as `path`, a folder that ends in `.mlpackage`.

    Args:
        program: of one input and of the outputs of `plan`.
        path: where the package goes.
        plan: names and shapes of what enters and leaves.
        carriers: what carries those of them that Core ML has no dtype for.
        target: batch axis and options.
        int8: what becomes INT8, if anything does.

    Raises:
        RuntimeUnavailable: see `package_from_plan`.
    """
    _check_operators(program, path)
    try:
        with quiet_exporter(), quiet_coremltools():
            ct.convert(
                program,
                convert_to="mlprogram",
                inputs=[_input(plan.input, carriers, target.batch)],
                outputs=[_output(tensor, carriers) for tensor in plan.outputs],
                minimum_deployment_target=TARGETS[_options(target).target],
                compute_precision=ct.precision.FLOAT32,  # leaves every dtype as it was traced
                pass_pipeline=pipeline(int8),
                skip_model_load=True,
                package_dir=str(path),
            )
    except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        got = f"{TITLE} cannot convert it ({error})"
        raise RuntimeUnavailable(path.stem, got=got, remedy=_ELSEWHERE) from error


@torch_frontend.register_torch_op(override=True)  # type: ignore[untyped-decorator] # coremltools has no types
def gelu(context: Any, node: Any) -> None:
    """Convert `aten.gelu`: coremltools 9.0 drops the keyword `approximate`, and makes every tanh form the exact one."""
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


def _options(target: Target) -> CoreMLOptions:
    assert isinstance(target.options, CoreMLOptions), "the format's own, from `target`"  # noqa: S101
    return target.options


def _input(tensor: TensorSpec, carriers: Carriers, batch: Batch) -> Any:
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


def _output(tensor: TensorSpec, carriers: Carriers) -> Any:
    carrier = carriers.get(tensor.name, tensor.dtype)
    if carrier == "image":
        return ct.ImageType(name=tensor.name, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=tensor.name, dtype=np.dtype(carrier).type)
