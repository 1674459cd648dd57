"""The recipe: reference, graphs, golden samples, check, write. A bundle appears verified or not at all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vqrae.checkpoint import Checkpoint
from vqrae.config import VQRAEConfig
from vqrae.export.bundle_graphs import GraphRequest, GraphWriter, WrittenGraphs
from vqrae.export.bundle_writer import utc_now, with_evidence, write_golden
from vqrae.export.formats import EngineOptions, Target
from vqrae.export.onnx_graph import TracedOnnx
from vqrae.export.parity_images import ParityImages
from vqrae.export.reference import reference_from_model
from vqrae.export.verify import VerifyRow, gather_evidence, source_evidence, verify_row
from vqrae.runtimes.bundle import Bundle, listed_files, write_manifest
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import BundleError, DeviceMissing, EngineMismatch, GateFailure
from vqrae.runtimes.manifest import Evidence, Manifest, Preprocessing, Tokens
from vqrae.runtimes.parity import Reference
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import Tokenizer


def check_target(target: Target) -> None:
    """Import what building and verifying a target needs, and look for its device, before any heavy work.

    Raises:
        RuntimeUnavailable: the runtime that would build or verify it is not installed, or builds on a GPU only.
    """
    session_class(target.format.runtime)
    _imported(target.format.writer)
    if isinstance(target.options, EngineOptions):
        from vqrae.export.tensorrt_engine import check_machine  # needs what was imported just now

        check_machine(target.format.runtime, target.options)


def bundle_name(config: VQRAEConfig, size: tuple[int, int] | None, target: Target) -> str:
    """The tokenizer's name, its image size (H, W) where that is not the trained one (or None), format and precision."""
    trained = size in (None, (config.image_size, config.image_size))
    sides = [] if trained or size is None else [f"{size[0]}x{size[1]}"]
    return "-".join([config.name, *sides, target.format_name, target.precision])


class BundleBuilder(Closing):
    """Builds bundles of one checkpoint; the reference runs once for all of them, and so does each tracing."""

    def __init__(self, checkpoint: Checkpoint, images: ParityImages, report: Callable[[str], None]) -> None:
        """The model is taken at the size that it has (`vqrae.resize`). `report` is told of each step as it begins."""
        self.checkpoint = checkpoint
        self.images = images
        self.report = report
        report("running the PyTorch reference")
        self.reference: Reference = reference_from_model(checkpoint.model, images.images)
        self._onnx = TracedOnnx(checkpoint.model)

    def close(self) -> None:
        """Delete the graphs that were traced for several formats."""
        self._onnx.close()

    def name(self, target: Target) -> str:
        """What the bundle is called."""
        return bundle_name(self.checkpoint.model.config, self.checkpoint.model.size, target)

    def build(
        self, target: Target, folder: Path, *, allow_gate_failure: bool = False, overwrite: bool = False
    ) -> VerifyRow:
        """Write one bundle into `folder`, named as `name` says.

        Raises:
            GateFailure: it misses its parity gate; nothing is written, unless `allow_gate_failure`.
            RuntimeUnavailable: the format cannot express the model, or the runtime failed.
        """
        path = folder / self.name(target)
        with staged_folder(path, overwrite=overwrite) as staging:
            self.report(f"{path.name}: folding and tracing")
            writer: GraphWriter = _imported(target.format.writer)
            model = self.checkpoint.model
            written = writer(GraphRequest(model=model, onnx=self._onnx, target=target, folder=staging))
            write_golden(staging, model, self.images.photographs)
            manifest = self._manifest(path.name, written, staging)
            write_manifest(staging, manifest)
            self.report(f"{path.name}: verifying on {len(self.images.images)} photographs")
            evidence = self._evidence(target, staging)
            row = verify_row(path, manifest, evidence)
            if row.misses:
                if not allow_gate_failure:
                    raise GateFailure(
                        path.name, got="; ".join(row.misses), remedy="pass --allow-gate-failure to write it, marked"
                    )
                evidence = evidence.model_copy(update={"gate_failure_allowed": True})
            write_manifest(staging, with_evidence(manifest, evidence))
        return row

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

    def _manifest(self, name: str, written: WrittenGraphs, folder: Path) -> Manifest:
        model = self.checkpoint.model
        height, width = model.size
        return Manifest(
            name=name,
            created=utc_now(),
            created_with={"vqrae": version("vqrae"), **written.runtime.built_with},
            checkpoint=self.checkpoint.identity,
            graphs=written.graphs,
            preprocessing=Preprocessing(height=height, width=width),
            tokens=Tokens(
                grid=model.grid,
                codebook_size=model.config.quantizer.codebook_size,
                feature_width=model.config.feature_width,
            ),
            precision=written.precision,
            runtime=written.runtime,
            evidence=Evidence(executed=False, reason="not verified yet", gate="not-executed"),
            files=listed_files(folder),
        )


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
