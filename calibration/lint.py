"""Whether a graph's Q/DQ is INT8 to TensorRT and TensorRT-RTX: what they refuse, or would compute in float, by node.

Covered: the numbers and the places of the Q/DQ pairs, read from the file. Not covered: which kernels a GPU runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from vqrae.runtimes.errors import RuntimeUnavailable

PRODUCTS = ("MatMul", "Gemm", "Conv")
"""Operators whose inputs may be dequantized."""
_PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a pair of Q/DQ."""

    node: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"node {self.node}: got {self.got}; expected {self.expected}"


def lint(path: Path) -> list[Finding]:
    """What is wrong with the Q/DQ of an ONNX graph, in the order of its nodes; nothing where it has none.

    Activations and weights are to be int8 around zero, weights with a scale for each output channel, and only matrix
    products may read them.
    """
    graph = onnx.load(path, load_external_data=False).graph
    reader = _Reader(graph)
    return [finding for node in graph.node if node.op_type in _PAIR for finding in reader.findings(node)]


def check_qdq(path: Path) -> None:
    """Refuse a graph that `lint` finds something in.

    Raises:
        RuntimeUnavailable: names the first finding's node, and tells how many others there are.
    """
    found = lint(path)
    if found:
        more = f" (and {len(found) - 1} other findings)" if len(found) > 1 else ""
        first = found[0]
        raise RuntimeUnavailable(f"{path.name}, node {first.node}", got=first.got + more, expected=first.expected)


class _Reader:
    """Looks from a node to the constants it takes and to the nodes that read it."""

    def __init__(self, graph: GraphProto) -> None:
        self._constants: Mapping[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.op_type)

    def findings(self, node: NodeProto) -> Iterator[Finding]:
        """Of one node of a pair."""
        kind = self._kind(node)
        if kind == TensorProto.INT32:
            yield self._finding(node, "an int32 bias", "biases in float: they are added after the product")
            return  # its other properties follow from that
        if kind != TensorProto.INT8:
            got = f"{helper.tensor_dtype_to_string(kind).removeprefix('TensorProto.').lower()} numbers"
            yield self._finding(node, got, "int8 around zero (symmetric)")
        elif self._off_zero(node):
            yield self._finding(node, "a zero point that is not 0", "int8 around zero (symmetric)")
        if node.op_type == "DequantizeLinear":
            yield from self._of_readers(node)
            yield from self._of_weights(node)

    def _of_readers(self, node: NodeProto) -> Iterator[Finding]:
        for operator in dict.fromkeys(self._readers.get(node.output[0], ["an output of the graph"])):
            if operator not in PRODUCTS:
                yield self._finding(node, f"a pair before {operator}", f"one before {', '.join(PRODUCTS)} only")

    def _of_weights(self, node: NodeProto) -> Iterator[Finding]:
        weight = self._weight(node)
        scale = self._constants.get(node.input[1])
        if weight is not None and len(weight.dims) > 1 and (scale is None or max(scale.dims, default=1) == 1):
            yield self._finding(node, "one scale for a whole weight", "a scale for each output channel")

    def _weight(self, node: NodeProto) -> TensorProto | None:
        """The constant that a DequantizeLinear reads, itself or through its QuantizeLinear; None of an activation."""
        maker = self._makers.get(node.input[0])
        source = maker.input[0] if maker is not None and maker.op_type == "QuantizeLinear" else node.input[0]
        return self._constants.get(source)

    def _kind(self, node: NodeProto) -> int:
        """The type of the whole numbers: of the zero point, or of what is dequantized; uint8 is ONNX's default."""
        constants = [*node.input[2:], *(node.input[:1] if node.op_type == "DequantizeLinear" else ())]
        known = next((self._constants[name] for name in constants if name in self._constants), None)
        if known is not None:
            return known.data_type
        asked = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
        maker = self._makers.get(node.input[0])
        if node.op_type == "DequantizeLinear" and maker is not None and maker.op_type == "QuantizeLinear":
            return self._kind(maker)
        return asked or TensorProto.UINT8

    def _off_zero(self, node: NodeProto) -> bool:
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        return zero is not None and bool(numpy_helper.to_array(zero).any())

    def _finding(self, node: NodeProto, got: str, expected: str) -> Finding:
        return Finding(node=node.name, got=got, expected=expected)
