"""The recipe: reference, graphs, golden samples, check, write. A bundle appears verified or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from vqrae import __version__
from vqrae.calibration.images import CalibrationImages
from vqrae.calibration.plan import PLAN_FILE
from vqrae.export.bundle_writer import creation_time, write_golden
from vqrae.export.deployable import Deployable
from vqrae.export.formats import Target
from vqrae.export.job import Written
from vqrae.export.parity_images import ParityImages
from vqrae.export.reference import reference_from_model
from vqrae.export.sources import SourceGraphs
from vqrae.export.speed import BuiltGraphs, GraphSpeed, Timing, graph_speeds
from vqrae.export.verify import VerifyRow, gather_evidence, source_evidence, verify_row
from vqrae.runtimes.bundle import Bundle, listed_files, write_manifest
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import BundleError, DeviceMissing, EngineMismatch, GateFailure
from vqrae.runtimes.evidence import Evidence
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Manifest, least_version
from vqrae.runtimes.parity import Reference, judge, misses
from vqrae.runtimes.precision import PRECISIONS, PrecisionName
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import Tokenizer


def check_target(target: Target) -> None:
    """Import what verifying a target needs, and look for what building it does, before any heavy work.

    Raises:
        RuntimeUnavailable: the runtime that would build or verify it is not installed, or builds on a GPU only.
        UsageError: what is installed does not know an option's value.
    """
    session_class(target.format.runtime)
    if PRECISIONS[target.precision].needs_images:
        session_class("onnxruntime")  # observes the ranges, whatever the format
    target.format.check_machine(target.options, target.precision)


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
        timing: Timing | None = None,
    ) -> None:
        """Run the reference.

        Args:
            tokenizer: to build them of.
            images: to verify on.
            report: told of each step as it begins.
            calibration: for targets that are calibrated.
            timing: what times graphs for the verdict on speed; `graph_speeds` if not given.
        """
        self.tokenizer = tokenizer
        self.images = images
        self.report = report
        self.graphs = [plan.name for plan in tokenizer.graphs()]
        report("running the PyTorch reference")
        self.reference: Reference = reference_from_model(tokenizer, images.images, self.graphs)
        self.sources = SourceGraphs(tokenizer, calibration)
        self.timing: Timing = timing or graph_speeds

    def close(self) -> None:
        """Delete the graphs that were traced for several formats."""
        self.sources.close()

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
            plan = self.sources.plan(target)
            if plan is not None:
                plan.write(staging / PLAN_FILE)
            written = target.format.write(self.sources.job(target, plan, staging))
            write_golden(staging, self.tokenizer, self.graphs, self.images.photographs)
            draft = self._manifest(path.name, target, written, staging)
            self.report(f"{path.name}: verifying on {len(self.images.images)} photographs")
            evidence = self._evidence(target, Bundle(staging, draft, draft.to_json().encode()))
            row = verify_row(path, draft, evidence)
            if PRECISIONS[target.precision].quantized and evidence.executed and evidence.means == "runtime":
                self.report(f"{path.name}: timing against float")
                row = self._with_speed(row, self._speeds(target, BuiltGraphs(staging, written)))
            if row.misses:
                if not allow_gate_failure:
                    raise GateFailure(
                        path.name, got="; ".join(row.misses), remedy="pass --allow-gate-failure to write it, marked"
                    )
                evidence = evidence.model_copy(update={"gate": row.gate, "gate_failure_allowed": True})
            write_manifest(staging, draft.model_copy(update={"evidence": evidence}))
        return row

    def _speeds(self, target: Target, built: BuiltGraphs) -> dict[str, GraphSpeed]:
        """Against the same graphs in float, which are written for it and thrown away."""
        with TemporaryDirectory(prefix="vqrae-speed-") as temporary:
            candidates: dict[PrecisionName, Callable[[], BuiltGraphs]] = {target.precision: lambda: built}
            for precision in (name for name in target.format.precisions if not PRECISIONS[name].quantized):
                asked = replace(target, precision=precision, plan=None, budget=None)
                candidates[precision] = partial(self._in_float, asked, Path(temporary) / precision)
            return self.timing(candidates, self._one_image())

    def _in_float(self, target: Target, folder: Path) -> BuiltGraphs:
        folder.mkdir()
        return BuiltGraphs(folder, target.format.write(self.sources.job(target, None, folder)))

    def _one_image(self) -> dict[str, NDArray[Any]]:
        """A batch of one for each graph."""
        values: dict[str, NDArray[Any]] = {"encode": self.reference.images, "decode": self.reference.indices}
        return {name: values[name][:1] for name in self.graphs}

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

    def _evidence(self, target: Target, bundle: Bundle) -> Evidence:
        """What the bundle did; of an engine that this machine has no device for, what its source graphs did.

        Raises:
            BundleError: the runtime refuses what was written for it.
            RuntimeUnavailable: the runtime lacks an operator, named with the layer that it came from, or failed.
        """
        try:
            with Tokenizer.from_bundle(bundle, LoadOptions(trusted=True)) as tokenizer:  # it was built just now
                return gather_evidence(tokenizer, self.reference)
        except BundleError as error:
            raise self.sources.onnx.located(error, target.precision, target.batch.axis) from error
        except (DeviceMissing, EngineMismatch) as error:
            source = source_evidence(bundle, self.reference)
            return Evidence(executed=False, reason=str(error), gate="not-executed", source=source)

    def _manifest(self, name: str, target: Target, written: Written, folder: Path) -> Manifest:
        return Manifest(
            format_version=least_version(written.graphs, self.tokenizer.tokens),
            name=name,
            created=creation_time(),
            created_with={"vqrae": __version__, **written.runtime.built_with},
            checkpoint=self.tokenizer.identity,
            graphs=written.graphs,
            preprocessing=self.tokenizer.preprocessing,
            tokens=self.tokenizer.tokens,
            precision=written.precision.model_copy(update={"budget": target.budget}),
            runtime=written.runtime,
            calibration=self.sources.provenance(target),
            evidence=Evidence(executed=False, reason="not verified yet", gate="not-executed"),
            files=listed_files(folder),
        )
