"""What a format's writer is asked for, and what it has to give: the graphs of one bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vqrae.calibration.layers import Product
from vqrae.calibration.plan import PLAN_FILE, Activations, PrecisionPlan, Scheme
from vqrae.export.deployable import Deployable
from vqrae.export.formats import Target
from vqrae.export.onnx_graph import TracedOnnx, traced_precision
from vqrae.runtimes.manifest import GraphSpec, Precision, RuntimeInfo
from vqrae.runtimes.precision import PRECISIONS

if TYPE_CHECKING:
    from vqrae.export.calibrated_onnx import CalibratedOnnx  # brings ONNX Runtime, which only INT8 needs
    from vqrae.export.weights_onnx import WeightsOnnx


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """The graphs that a bundle needs."""

    tokenizer: Deployable
    """At the image size that the graphs are for."""
    onnx: TracedOnnx
    """Its graphs in ONNX, traced once for all the formats that start from them."""
    calibrated: CalibratedOnnx | None
    """The same in INT8, where a target asks for it."""
    stored: WeightsOnnx | None
    """The same with weights in INT8, where a target asks for it."""
    target: Target
    folder: Path
    """Where the artifacts go: the bundle's folder, still a staging one."""

    def onnx_graphs(self, scheme: Scheme = "asymmetric") -> tuple[Path, dict[str, GraphSpec], Precision]:
        """A folder with the ONNX graphs at the target's precision, their specs, and what they are really built of.

        Args:
            scheme: what the runtime takes. For INT8 the plan is written into the bundle.
        """
        target = self.target
        kind = PRECISIONS[target.precision]
        if kind.quantized and not kind.needs_images:
            assert self.stored is not None, "the builder gave them"  # noqa: S101
            return self._named(self.stored.graphs(self.written_plan(), scheme))
        if kind.needs_images:
            assert self.calibrated is not None, "the builder was given images"  # noqa: S101
            return self._named(self.calibrated.graphs(self.written_plan(), scheme))
        if kind.weights == "fp16" and scheme == "asymmetric":
            folder, graphs = self.onnx.compact(target.precision, target.batch.axis, split=target.split)
        else:
            folder, graphs = self.onnx.graphs(target.precision, target.batch.axis, split=target.split)
        return folder, graphs, traced_precision(target.precision)

    def _named(
        self, made: tuple[Path, dict[str, GraphSpec], Precision]
    ) -> tuple[Path, dict[str, GraphSpec], Precision]:
        """INT8 graphs by the name of the precision that they were asked for under."""
        folder, graphs, precision = made
        return folder, graphs, precision.model_copy(update={"name": self.target.precision})

    def written_plan(self) -> PrecisionPlan:
        """The plan of a target at INT8, the target's own or the default one, after it was written into the bundle."""
        source, activations = self._quantized()
        plan = self.target.chosen_plan(source.products, activations)
        plan.write(self.folder / PLAN_FILE)
        return plan

    def graph_products(self) -> dict[str, tuple[Product, ...]]:
        """The matrix products of each graph of a target at INT8."""
        return self._quantized()[0].graph_products

    def _quantized(self) -> tuple[CalibratedOnnx | WeightsOnnx, Activations]:
        if self.calibrated is not None:
            return self.calibrated, "int8"
        assert self.stored is not None, "the builder gave one of the two"  # noqa: S101
        return self.stored, "float"


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
