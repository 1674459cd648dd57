"""What an engine is made of, layer by layer, and whether its matrix products have the precision that was asked for.

Covered: the network that the framework was given, whose types it must keep, because it is strongly typed; and what its
inspector says of the engine, where the engine can be loaded. Not covered: which kernels a GPU runs in the end.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vqrae.runtimes.errors import BundleError, RuntimeUnavailable
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.precision import NumberType, Precision

TYPES: dict[NumberType, str] = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}
"""What products multiply in -> the framework's name for it."""
_PRODUCT_KINDS = re.compile("matrix_?multiply|matmul|gemm|convolution|einsum|mha", re.IGNORECASE)
_INSPECTED_TYPES = {"HALF": ("half", "fp16"), "FLOAT": ("float", "fp32"), "INT8": ("int8",)}


class EngineLayer(Record):
    """One layer."""

    name: str
    kind: str
    """As the framework names it, such as `MATRIX_MULTIPLY`."""
    inputs: tuple[str, ...]
    """Types, as the framework names them, such as `HALF`."""
    outputs: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    """Nodes of the ONNX graph that it computes, where it says so."""
    origins: tuple[str, ...] = ()
    """Layers of the model that the nodes came from, where that is known."""
    dequantized: int = 0
    """In a network: how many of its inputs are dequantized INT8. With both, the product is one of INT8; with one, its
    weight is stored so."""

    def __str__(self) -> str:
        return self.name + (f" of {', '.join(self.origins)}" if self.origins else "")

    @property
    def product_type(self) -> str | None:
        """The type that it multiplies in; None if it multiplies no matrices. What is fused with it may be wider."""
        if not _PRODUCT_KINDS.search(self.kind) or not self.inputs:
            return None
        if self.dequantized == len(self.inputs):
            return "INT8"
        return "HALF" if "HALF" in (*self.inputs, *self.outputs) else self.inputs[0]


class LayerTable(Record):
    """What `<graph>.layers.json` holds."""

    network: tuple[EngineLayer, ...]
    """What the framework was given."""
    engine: tuple[EngineLayer, ...] | None = None
    """What its inspector says that it made of it; None where the engine could not be loaded on the machine that built
    it."""

    def to_json(self) -> str:
        """The file's text, a layer on each line."""
        lines = {
            field: [json.dumps(layer.model_dump(mode="json"), ensure_ascii=False) for layer in layers]
            for field, layers in (("network", self.network), ("engine", self.engine))
            if layers is not None
        }
        blocks = [f'  "{field}": [\n    ' + ",\n    ".join(texts) + "\n  ]" for field, texts in lines.items()]
        return "{\n" + ",\n".join(blocks) + "\n}\n"


def read_origins(path: Path, content: bytes) -> dict[str, str]:
    """Node of the ONNX graph -> layer of the model, from a layer table's content; errors call it `path`.

    Raises:
        BundleError: it is not one.
    """
    try:
        table = LayerTable.model_validate_json(content)
    except ValidationError as error:
        expected = "a table of an engine's layers"
        raise BundleError(str(path), got="something else", expected=expected, remedy="export it again") from error
    pairs = ((layer.nodes, layer.origins) for layer in table.network)
    return {nodes[0]: origins[0] for nodes, origins in pairs if nodes and origins}


def network_layers(network: Any, origins: Mapping[str, str]) -> tuple[EngineLayer, ...]:
    """The layers of a parsed network; `origins` says which layer of the model a node came from."""
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    makers = {layer.get_output(number).name: layer for layer in layers for number in range(layer.num_outputs)}
    found = []
    for layer in layers:
        inputs = [tensor for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None]
        described = _layer(
            layer.name,
            layer.type.name,
            [tensor.dtype.name for tensor in inputs],
            [layer.get_output(number).dtype.name for number in range(layer.num_outputs)],
            layer.metadata,
            origins,
        )
        dequantized = sum(_is_dequantized(tensor.name, makers) for tensor in inputs)
        found.append(described.model_copy(update={"dequantized": dequantized}))
    return tuple(found)


def _is_dequantized(tensor: str, makers: Mapping[str, Any]) -> bool:
    """Whether a tensor is dequantized INT8, in another shape or not: the parser gives weights more axes."""
    maker = makers.get(tensor)
    while maker is not None and maker.type.name == "SHUFFLE":
        maker = makers.get(maker.get_input(0).name)
    return maker is not None and maker.type.name == "DEQUANTIZE"


def inspected_layers(trt: Any, engine: Any, origins: Mapping[str, str]) -> tuple[EngineLayer, ...]:
    """The layers of a loaded engine, as its inspector describes them; it must have been built to tell details."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    described = json.loads(text, strict=False).get("Layers", ())  # its texts hold unescaped separators
    return tuple(
        _layer(
            layer.get("Name", ""),
            layer.get("LayerType", ""),
            [_inspected_type(tensor) for tensor in layer.get("Inputs", ())],
            [_inspected_type(tensor) for tensor in layer.get("Outputs", ())],
            layer.get("Metadata", ""),
            origins,
        )
        for layer in described
        if isinstance(layer, dict)  # a layer without details is its bare name
    )


def product_counts(layers: Iterable[EngineLayer]) -> Counter[str]:
    """How many matrix products there are of each type."""
    return Counter(layer.product_type for layer in layers if layer.product_type is not None)


def check_products(subject: str, precision: Precision, layers: Iterable[EngineLayer]) -> None:
    """Compare the types of the matrix products with the precision that was asked for, and with what it keeps in float.

    What is kept is named by the model's layer, or by a part of its name: `scores` is in `quantizer.scores`.

    Raises:
        RuntimeUnavailable: one has another type.
    """
    layers = list(layers)
    wanted = TYPES[precision.kind.activations]
    kept = {name for item in precision.kept_float for name in item.layer.split(", ")}
    wrong = [
        layer for layer in layers if layer.product_type not in (None, "FLOAT" if _is_kept(layer, kept) else wanted)
    ]
    if wrong:
        counts = product_counts(layers)
        got = ", ".join(f"{count} of {counts.total()} matrix products in {kind}" for kind, count in counts.items())
        raise RuntimeUnavailable(
            f"{subject}, layer {wrong[0]}",
            got=got,
            expected=f"{wanted}, as {precision.name} asks" + (f", but for {', '.join(sorted(kept))}" if kept else ""),
            remedy=f"export it again with --precision {precision.name}",
        )


def described_node(node: str, origins: Mapping[str, str]) -> str:
    """A node and the layer of the model that it came from, for an error."""
    name = f"node {node}" if node else "a node without a name"
    return f"{name} of the layer {origins[node]}" if node in origins else name


def _is_kept(layer: EngineLayer, kept: set[str]) -> bool:
    return any(kept & {origin, *origin.split(".")} for origin in layer.origins)


def _layer(
    name: str, kind: str, inputs: list[str], outputs: list[str], metadata: str, origins: Mapping[str, str]
) -> EngineLayer:
    nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata))
    known = tuple(dict.fromkeys(origins[node] for node in nodes if node in origins))
    return EngineLayer(name=name, kind=kind, inputs=tuple(inputs), outputs=tuple(outputs), nodes=nodes, origins=known)


def _inspected_type(tensor: Mapping[str, Any]) -> str:
    """The type, out of a text such as `Row major linear FP16 format`; the text itself if it names neither."""
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format", ""))
    return next((kind for kind, words in _INSPECTED_TYPES.items() if any(w in text.lower() for w in words)), text)
