"""Trace the deployed graphs to ONNX: opset 20, dynamic batch, standard operators only, checked as written."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import nn

from vqrae.export.graphs import GraphPlan, graph_plans
from vqrae.model import VQRAE
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo

OPSET = 20
TRACED_BATCH = 2
"""A batch of 1 may be inferred to be a constant."""
SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights up to which a graph is one file; protobuf ends at 2³¹."""
KEPT_METADATA = "pkg.torch.onnx.name_scopes"
"""Names a node's layer. Other notes of the exporter hold paths of this machine."""


def onnx_graphs(model: VQRAE, folder: Path, *, split: bool) -> dict[str, GraphSpec]:
    """Write `encode.onnx` and `decode.onnx`, and with `split` the four parts, one at a time in memory."""
    specs = {}
    for plan in graph_plans(model.config, split=split):
        specs[plan.name] = graph_from_plan(plan, model, folder)
        gc.collect()  # traced graphs refer to themselves, and a large one must be gone before the next
    return specs


def onnxruntime_info() -> RuntimeInfo:
    """The runtime that these graphs are for, and what made them."""
    packages = ("torch", "onnx", "onnxscript")
    return RuntimeInfo(
        name="onnxruntime", built_with={name: version(name) for name in packages}, options={"opset": OPSET}
    )


def graph_from_plan(plan: GraphPlan, model: VQRAE, folder: Path) -> GraphSpec:
    """Fold, trace, check and write one graph; its file is `<name>.onnx`."""
    module = plan.make(model).eval()
    path = folder / f"{plan.name}.onnx"
    external = _weight_bytes(module) > SINGLE_FILE_LIMIT
    with _quiet_exporter():
        shape = [TRACED_BATCH, *(int(side) for side in plan.input.shape[1:])]
        example = torch.zeros(shape, dtype=getattr(torch, plan.input.dtype))
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[plan.input.name],
            output_names=[output.name for output in plan.outputs],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None, "only the old exporter returns nothing"  # noqa: S101
        for node in program.model.graph.all_nodes():
            scopes = node.metadata_props.get(KEPT_METADATA)
            node.metadata_props.clear()
            if scopes is not None:
                node.metadata_props[KEPT_METADATA] = scopes
        program.model.producer_name = "vqrae"
        program.save(str(path), external_data=external)
    onnx.checker.check_model(str(path), full_check=True)
    extra_files = (f"{path.name}.data",) if external else ()
    return GraphSpec(file=path.name, extra_files=extra_files, inputs=(plan.input,), outputs=plan.outputs)


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's notes about torchvision, which nothing here uses, and about its own deprecated calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
