"""What a format's writer is asked for, and what it has to give: the graphs of one bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vqrae.export.formats import Target
from vqrae.export.onnx_graph import TracedOnnx
from vqrae.model import VQRAE
from vqrae.runtimes.manifest import GraphSpec, Precision, RuntimeInfo


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """The graphs that a bundle needs."""

    model: VQRAE
    """At the image size that the graphs are for."""
    onnx: TracedOnnx
    """Its graphs in ONNX, traced once for all the formats that start from them."""
    target: Target
    folder: Path
    """Where the artifacts go: the bundle's folder, still a staging one."""


@dataclass(frozen=True, kw_only=True)
class WrittenGraphs:
    """What was written, for the manifest."""

    graphs: dict[str, GraphSpec]
    """`encode` and `decode`, and of a split target the four parts; paths are relative to the bundle's folder."""
    precision: Precision
    """What was really built, read back from the artifacts where a converter could have decided otherwise."""
    runtime: RuntimeInfo


class GraphWriter(Protocol):
    """Writes the graphs of one bundle in one format."""

    def __call__(self, request: GraphRequest) -> WrittenGraphs:
        """Write the artifacts into `request.folder`.

        Raises:
            RuntimeUnavailable: the format cannot express the model: names the node and the model's layer; or what was
                built is not of the precision that was asked for.
        """
        ...
