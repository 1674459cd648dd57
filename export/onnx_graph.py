"""Trace the deployed graphs to ONNX: opset 20, dynamic batch, standard operators only, checked as written."""

from __future__ import annotations

import gc
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import nn

from vqrae.calibration.layers import LAYER_METADATA, node_layers
from vqrae.calibration.weights import store_in_whole_numbers
from vqrae.export.deployable import Deployable, GraphPlan
from vqrae.export.form import FORMS, FP32, Form
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, VqraeError
from vqrae.runtimes.manifest import GraphSpec
from vqrae.runtimes.precision import Precision, PrecisionName

OPSET = 20
SINGLE_FILE_LIMIT = 1_500_000_000
"""Bytes of weights up to which a graph is one file; PyTorch splits it at 1.5 GiB on its own, protobuf ends at 2 GiB."""


def traced_precision(name: PrecisionName) -> Precision:
    """The precision of graphs whose dtypes are as they were traced."""
    return Precision(name=name, kept_float=FORMS[name].kept_float)


def tracer_versions() -> dict[str, str]:
    """What made the ONNX graphs."""
    return {name: version(name) for name in ("torch", "onnx", "onnxscript")}


class TracedOnnx(Closing):
    """The ONNX graphs of one tokenizer, each variant traced when first asked for, and kept until this is closed."""

    def __init__(self, tokenizer: Deployable) -> None:
        self._tokenizer = tokenizer
        self._temporary = tempfile.TemporaryDirectory(prefix="vqrae-onnx-")
        self._traced: dict[str, dict[str, GraphSpec]] = {}

    def graphs(self, precision: PrecisionName, batch: int | str, *, split: bool) -> tuple[Path, dict[str, GraphSpec]]:
        """A folder with the graphs, and their specs by name.

        Args:
            precision: one that is traced: a key of `FORMS`.
            batch: a fixed size, or the name of the dynamic axis.
            split: also the four parts.
        """
        plans = self._tokenizer.graphs(batch, split=split)
        return self._traced_once(self._folder(precision, batch), plans, precision)

    def compact(self, precision: PrecisionName, batch: int | str, *, split: bool) -> tuple[Path, dict[str, GraphSpec]]:
        """As `graphs`, with the large constants that are not FP16 in int16 (see `store_in_whole_numbers`)."""
        source, specs = self.graphs(precision, batch, split=split)
        folder = Path(self._temporary.name) / f"compact-{precision}-{batch}"
        folder.mkdir(exist_ok=True)
        for spec in specs.values():
            path = folder / spec.file
            if not path.exists():
                model = onnx.load(source / spec.file)
                store_in_whole_numbers(model)
                external = bool(spec.extra_files)
                onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data")
                onnx.checker.check_model(str(path), full_check=True)
        return folder, specs

    def _traced_once(
        self, folder: Path, plans: Sequence[GraphPlan], precision: PrecisionName
    ) -> tuple[Path, dict[str, GraphSpec]]:
        folder.mkdir(exist_ok=True)
        traced = self._traced.setdefault(folder.name, {})
        for plan in plans:
            if plan.name not in traced:
                traced[plan.name] = graph_from_plan(plan, folder, FORMS[precision])
                gc.collect()  # traced graphs refer to themselves, and a large one must be gone before the next
        return folder, {plan.name: traced[plan.name] for plan in plans}

    def located(self, error: BundleError, precision: PrecisionName, batch: int | str) -> VqraeError:
        """A runtime's refusal of a graph: where it quotes a node, with the model's layer that the node came from.

        Args:
            error: its subject is the refused file, which is named as the traced graph is.
            precision: of the graphs that the file was written from.
            batch: of the same.
        """
        path = self._folder(precision, batch) / f"{Path(error.subject).stem}.onnx"
        for node, layer in node_layers(path).items() if path.exists() else ():
            if re.search(rf"\b{re.escape(node)}\b", str(error)):
                where = f"{path.name}, node {node} of the layer {layer}"
                return RuntimeUnavailable(where, got=error.got, remedy="export to another format")
        return error

    def close(self) -> None:
        """Delete the graphs."""
        self._temporary.cleanup()

    def _folder(self, precision: PrecisionName, batch: int | str) -> Path:
        return Path(self._temporary.name) / f"{precision}-{batch}"


def graph_from_plan(plan: GraphPlan, folder: Path, form: Form = FP32) -> GraphSpec:
    """Fold, trace, check and write one graph; its file is `<name>.onnx`."""
    module = plan.module(form).eval()
    path = folder / f"{plan.name}.onnx"
    external = _weight_bytes(module) > SINGLE_FILE_LIMIT
    with quiet_exporter():
        program = torch.onnx.export(
            module,
            (plan.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[plan.input.name],
            output_names=[output.name for output in plan.outputs],
            dynamic_shapes=plan.dynamic_shapes(),
            verbose=False,
        )
        assert program is not None, "only the old exporter returns nothing"  # noqa: S101
        for node in program.model.graph.all_nodes():
            scopes = node.metadata_props.get(LAYER_METADATA)  # other notes hold paths of this machine
            node.metadata_props.clear()
            if scopes is not None:
                node.metadata_props[LAYER_METADATA] = scopes
        program.model.producer_name = "vqrae"
        program.save(str(path), external_data=external)
    onnx.checker.check_model(str(path), full_check=True)
    extra_files = (f"{path.name}.data",) if external else ()
    return GraphSpec(file=path.name, extra_files=extra_files, inputs=(plan.input,), outputs=plan.outputs)


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


@contextmanager
def quiet_exporter() -> Iterator[None]:
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
