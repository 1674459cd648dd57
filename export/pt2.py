"""Programs of `torch.export` of the deployed graphs, for formats that are converted from PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqrae.export.deployable import GraphPlan
from vqrae.export.form import Form
from vqrae.export.formats.format import INSIDE, ImageEdge
from vqrae.export.onnx_graph import quiet_exporter
from vqrae.runtimes.manifest import GraphSpec


class ImageEdges(nn.Module):
    """A deployed graph whose images are laid out (B, 3, H, W)."""

    def __init__(self, graph: nn.Module, plan: GraphPlan) -> None:
        super().__init__()
        self.add_module(INSIDE, graph)
        self.enters, self.leaves = (tensor.name == "images" for tensor in (plan.input, plan.outputs[0]))

    def forward(self, value: Tensor) -> Any:
        """What the graph gives."""
        given = self.get_submodule(INSIDE)(value.permute(0, 2, 3, 1) if self.enters else value)
        return given.permute(0, 3, 1, 2) if self.leaves else given


def program_from_plan(
    plan: GraphPlan, form: Form, images: ImageEdge, parameters: Mapping[str, NDArray[np.float32]]
) -> torch.export.ExportedProgram:
    """Fold and trace one graph.

    Args:
        plan: of the graph.
        form: how it is spelled.
        images: what they are at its edges.
        parameters: of the module, that are to have other values.
    """
    dtype, layout = images.split()
    module, example = plan.module(replace(form, images=getattr(torch, dtype))).eval(), plan.example()
    with torch.no_grad():
        for name, values in parameters.items():
            module.get_parameter(name).copy_(torch.tensor(values))
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.untyped_storage().nbytes() > tensor.nbytes or not tensor.is_contiguous():
                # Part of another, or in another order: a file wants whole ones.
                tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    if example.dtype == torch.uint8:
        example = example.to(getattr(torch, dtype))
    if layout == "BCHW":
        module = ImageEdges(module, plan)
        example = example.permute(0, 3, 1, 2).contiguous() if module.enters else example
    with quiet_exporter():
        program = torch.export.export(module, (example,), dynamic_shapes=plan.dynamic_shapes())
        return program.run_decompositions({})


def write_program(program: torch.export.ExportedProgram, plan: GraphPlan, folder: Path) -> GraphSpec:
    """Write a traced graph as `<name>.pt2`."""
    path = folder / f"{plan.name}.pt2"
    torch.export.save(program, path)
    return GraphSpec(file=path.name, inputs=(plan.input,), outputs=plan.outputs)
