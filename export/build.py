"""The recipe: reference, graphs, golden samples, check, write. A bundle appears verified or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from vqrae import __version__
from vqrae.calibration.images import CalibrationImages
from vqrae.export.bundle_graphs import GraphRequest, GraphWriter, WrittenGraphs
from vqrae.export.bundle_writer import creation_time, with_evidence, write_golden
from vqrae.export.deployable import Deployable
from vqrae.export.formats import EngineOptions, Target
from vqrae.export.onnx_graph import TracedOnnx
from vqrae.export.parity_images import ParityImages
from vqrae.export.reference import reference_from_model
from vqrae.export.speed import GraphSpeed, int8_speeds
from vqrae.export.verify import VerifyRow, gather_evidence, source_evidence, verify_row
from vqrae.runtimes.bundle import Bundle, listed_files, write_manifest
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import BundleError, DeviceMissing, EngineMismatch, GateFailure, UsageError
from vqrae.runtimes.manifest import Evidence, Manifest
from vqrae.runtimes.parity import Reference, judge, misses
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vqrae.export.calibrated_onnx import CalibratedOnnx
    from vqrae.export.weights_onnx import WeightsOnnx


def check_target(target: Target) -> None:
    """Import what building and verifying a target needs, and look for its device, before any heavy work.

    Raises:
        RuntimeUnavailable: the runtime that would build or verify it is not installed, or builds on a GPU only.
    """
    session_class(target.format.runtime)
    _imported(target.format.writer)
    if PRECISIONS[target.precision].needs_images:
        session_class("onnxruntime")  # observes the ranges, whatever the format
    if isinstance(target.options, EngineOptions):
        from vqrae.export.tensorrt_engine import check_machine  # needs what was imported just now

        check_machine(target.format.runtime, target.options)


def bundle_name(tokenizer: str, target: Target) -> str:
    """The tokenizer's name (`Deployable.name`), format and precision."""
    return "-".join([tokenizer, target.format_name, target.precision])


class BundleBuilder(Closing):
    """Builds bundles of one tokenizer; the reference runs once for all of them, and so does each tracing."""

    def __init__(
        self,
        tokenizer: Deployable,
        images: ParityImages,
        report: Callable[[str], None],
        calibration: CalibrationImages | None = None,
    ) -> None:
        """Run the reference.

        Args:
            tokenizer: to build them of.
            images: to verify on.
            report: told of each step as it begins.
            calibration: for targets at INT8.
        """
        self.tokenizer = tokenizer
        self.images = images
        self.report = report
        report("running the PyTorch reference")
        self.reference: Reference = reference_from_model(tokenizer, images.images)
        self._onnx = TracedOnnx(tokenizer)
        self._calibration = calibration

    def close(self) -> None:
        """Delete the graphs that were traced for several formats."""
        for name in {"calibrated", "stored"} & self.__dict__.keys():
            getattr(self, name).close()
        self._onnx.close()

    @cached_property
    def calibrated(self) -> CalibratedOnnx:
        """The INT8 graphs.

        Raises:
            UsageError: the builder was given no images to calibrate on.
        """
        if self._calibration is None:
            remedy = "pass --calibration FOLDER"
            raise UsageError("int8", got="no calibration images", expected="some", remedy=remedy)
        from vqrae.export.calibrated_onnx import CalibratedOnnx  # brings ONNX Runtime, which only INT8 needs

        return CalibratedOnnx(self._onnx, self._calibration, self.tokenizer.tokens.codebook_size)

    @cached_property
    def stored(self) -> WeightsOnnx:
        """The graphs with weights in INT8."""
        from vqrae.export.weights_onnx import WeightsOnnx

        return WeightsOnnx(self._onnx)

    def name(self, target: Target) -> str:
        """What the bundle is called."""
        return bundle_name(self.tokenizer.name, target)

    def build(
        self, target: Target, folder: Path, *, allow_gate_failure: bool = False, overwrite: bool = False
    ) -> VerifyRow:
        """Write one bundle into `folder`, named as `name` says.

        Raises:
            GateFailure: it misses its parity gate, or at INT8 is no faster than at FP32 and FP16, where its runtime
                can run here; nothing is written, unless `allow_gate_failure`.
            RuntimeUnavailable: the format cannot express the model, or the runtime failed.
        """
        path = folder / self.name(target)
        with staged_folder(path, overwrite=overwrite) as staging:
            self.report(f"{path.name}: folding and tracing")
            writer: GraphWriter = _imported(target.format.writer)
            request = self._request(target, staging)
            written = writer(request)
            write_golden(staging, self.tokenizer, self.images.photographs)
            manifest = self._manifest(path.name, target, written, staging)
            write_manifest(staging, manifest)
            self.report(f"{path.name}: verifying on {len(self.images.images)} photographs")
            evidence = self._evidence(target, staging)
            row = verify_row(path, manifest, evidence)
            if PRECISIONS[target.precision].quantized and evidence.executed and evidence.means == "runtime":
                self.report(f"{path.name}: timing against float")
                row = self._with_speed(row, int8_speeds(request, written, writer, self._one_image()))
            if row.misses:
                if not allow_gate_failure:
                    raise GateFailure(
                        path.name, got="; ".join(row.misses), remedy="pass --allow-gate-failure to write it, marked"
                    )
                evidence = evidence.model_copy(update={"gate": row.gate, "gate_failure_allowed": True})
            write_manifest(staging, with_evidence(manifest, evidence))
        return row

    def _request(self, target: Target, folder: Path) -> GraphRequest:
        kind = PRECISIONS[target.precision]
        return GraphRequest(
            tokenizer=self.tokenizer,
            onnx=self._onnx,
            calibrated=self.calibrated if kind.needs_images else None,
            stored=self.stored if kind.quantized and not kind.needs_images else None,
            target=target,
            folder=folder,
        )

    def _one_image(self) -> dict[str, NDArray[Any]]:
        """A batch of one for each graph."""
        return {"encode": self.reference.images[:1], "decode": self.reference.indices[:1]}

    @staticmethod
    def _with_speed(row: VerifyRow, speeds: Mapping[str, GraphSpeed]) -> VerifyRow:
        """A graph that INT8 does not make faster is a miss; where only weights are INT8, size is the gain."""
        limits = PRECISIONS[row.precision].limits
        checks = {name: judge({"speedup": speed.speedup}, limits, ()) for name, speed in speeds.items()}
        slow = [f"{name} {speeds[name]}" for name, judged in checks.items() if misses(judged)]
        return row.model_copy(
            update={
                "misses": (*row.misses, *slow),
                "gate": "fail" if slow else row.gate,
                "speedup": {name: speed.speedup for name, speed in speeds.items()},
            }
        )

    def _evidence(self, target: Target, folder: Path) -> Evidence:
        """What the bundle did; of an engine that this machine has no device for, what its source graphs did.

        Raises:
            BundleError: the runtime refuses what was written for it.
            RuntimeUnavailable: the runtime lacks an operator, named with the layer that it came from, or failed.
        """
        try:
            with Tokenizer.load(folder, trusted=True) as tokenizer:  # it was built just now
                return gather_evidence(tokenizer, self.reference)
        except BundleError as error:
            raise self._onnx.located(error, target.precision, target.batch.axis) from error
        except (DeviceMissing, EngineMismatch) as error:
            source = source_evidence(Bundle.open(folder), self.reference)
            return Evidence(executed=False, reason=str(error), gate="not-executed", source=source)

    def _manifest(self, name: str, target: Target, written: WrittenGraphs, folder: Path) -> Manifest:
        return Manifest(
            name=name,
            created=creation_time(),
            created_with={"vqrae": __version__, **written.runtime.built_with},
            checkpoint=self.tokenizer.identity,
            graphs=written.graphs,
            preprocessing=self.tokenizer.preprocessing,
            tokens=self.tokenizer.tokens,
            precision=written.precision.model_copy(update={"budget": target.budget}),
            runtime=written.runtime,
            calibration=self.calibrated.provenance() if written.precision.kind.needs_images else None,
            evidence=Evidence(executed=False, reason="not verified yet", gate="not-executed"),
            files=listed_files(folder),
        )


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
