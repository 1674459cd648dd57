"""OpenVINO's IR, from the ONNX graphs, with every value in the precision that it was traced in."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from vqrae.export.formats.format import Format
from vqrae.export.job import ExportJob, Written
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import RuntimeInfo

if TYPE_CHECKING:
    from vqrae.runtimes.backends.openvino_library import openvino


class OpenVino(Format):
    """A graph's `<name>.xml`, and its weights in `<name>.bin`.

    FP16 is what the graphs were traced in, weights and arithmetic, with the scores kept in FP32. OpenVINO's own
    compression would put the scores' weights into FP16 too, and that alone misses the gate (docs/explanation/fp16.md).
    INT8 is the Q/DQ that ONNX Runtime gets, which OpenVINO compiles to the same kernels as what NNCF makes
    (docs/explanation/int8.md).
    """

    runtime = "openvino"
    takes = "onnx"
    scheme = "asymmetric"
    batches = ("dynamic", "fixed")
    int8_too = ("queries_keys",)  # attention is one INT8 kernel then

    def write(self, job: ExportJob) -> Written:
        """See `Format`."""
        graphs = {}
        for name, spec in job.graphs.items():
            path = ir_from_onnx(job.sources / spec.file, job.folder)
            files = {"file": path.name, "extra_files": (path.with_suffix(".bin").name,)}
            graphs[name] = spec.model_copy(update=files)
        runtime = RuntimeInfo(name=self.runtime, built_with={**job.made_with, "openvino": version("openvino")})
        return Written(graphs=graphs, precision=job.precision, runtime=runtime)


def ir_from_onnx(source: Path, folder: Path) -> Path:
    """Convert one ONNX graph; writes `<name>.xml` and `<name>.bin`, every weight in its own dtype.

    Read by OpenVINO itself and not through its converter, which reports each conversion to its makers.

    Returns:
        The `.xml` file.

    Raises:
        RuntimeUnavailable: OpenVINO lacks an operator; names the node and the model's layer.
    """
    from vqrae.runtimes.backends.openvino_library import openvino

    path = folder / f"{source.stem}.xml"
    try:
        model = openvino.Core().read_model(source)
    except RuntimeError as error:
        raise _lacking(source, str(error)) from error
    _name_the_nameless(model)
    openvino.save_model(model, path, compress_to_fp16=False)
    # A seventh of the file is indentation, which counts where a tokenizer is small.
    path.write_text(re.sub(r">\s+<", "><", path.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def _name_the_nameless(model: openvino.Model) -> None:
    """OpenVINO numbers what has no name across all that the process has done; here, across the graph alone."""
    for place, operation in enumerate(model.get_ordered_ops()):
        if operation.get_friendly_name() == operation.get_name():
            operation.set_friendly_name(f"unnamed_{place}")


def _lacking(source: Path, message: str) -> RuntimeUnavailable:
    """OpenVINO names operators as `Det-20` or `acme.Foo`; a user wants to know where they are."""
    import onnx

    from vqrae.calibration.layers import node_layers

    found = re.search(r"operations: (\S+?)(?:-\d+)?[,\s]", message + " ")
    if found is None:
        return RuntimeUnavailable(source.name, got=f"a graph that OpenVINO does not read ({message})")
    operator = found.group(1).rpartition(".")[2]
    nodes = onnx.load(source, load_external_data=False).graph.node
    name = next(node.name for node in nodes if node.op_type == operator)
    layer = node_layers(source).get(name)
    return RuntimeUnavailable(
        f"{source.name}, node {name}" + (f" of the layer {layer}" if layer else ""),
        got=f"the operator {operator}",
        expected="one that OpenVINO has",
        remedy="export to another format",
    )
