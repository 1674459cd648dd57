"""The recipe: reference, graphs, golden samples, check, write. A bundle appears verified or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from vqrae.checkpoint import Checkpoint
from vqrae.export.bundle_writer import listed_files, utc_now, with_evidence, write_golden, write_manifest
from vqrae.export.parity_images import ParityImages
from vqrae.export.reference import reference_from_model
from vqrae.export.verify import VerifyRow, gather_evidence, verify_row
from vqrae.model import VQRAE
from vqrae.runtimes.errors import GateFailure, unknown_name
from vqrae.runtimes.manifest import (
    Evidence,
    GraphSpec,
    Manifest,
    Precision,
    PrecisionName,
    Preprocessing,
    RuntimeInfo,
    Tokens,
)
from vqrae.runtimes.parity import Reference
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.staging import staged_folder
from vqrae.runtimes.tokenizer import Tokenizer


class GraphWriter(Protocol):
    """Writes a model's graphs into a folder."""

    def __call__(self, model: VQRAE, folder: Path, *, split: bool) -> dict[str, GraphSpec]:
        """Write `encode` and `decode`, and with `split` the four parts; returns their specs by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """One thing to export to."""

    runtime: str
    """The runtime that executes it."""
    precisions: tuple[PrecisionName, ...]
    graphs: str
    """`module:function` of its GraphWriter."""
    info: str
    """`module:function` that describes the runtime to the manifest."""


FORMATS: dict[str, Format] = {
    "onnx": Format(
        runtime="onnxruntime",
        precisions=("fp32",),
        graphs="vqrae.export.onnx_graph:onnx_graphs",
        info="vqrae.export.onnx_graph:onnxruntime_info",
    ),
}
"""Format name -> how it is made; modules are imported when they are needed."""


def check_format(name: str, precision: str) -> tuple[Format, PrecisionName]:
    """Look a format up before any heavy work.

    Raises:
        UsageError: no such format, nearest suggested, or not in that precision.
        RuntimeUnavailable: the runtime that would verify it is not installed.
    """
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    entry = FORMATS[name]
    known = [candidate for candidate in entry.precisions if candidate == precision]
    if not known:
        raise unknown_name(f"precision of {name}", precision, entry.precisions)
    _imported(entry.graphs)
    session_class(entry.runtime)
    return entry, known[0]


class BundleBuilder:
    """Builds bundles of one checkpoint; the reference runs once for all of them."""

    def __init__(self, checkpoint: Checkpoint, images: ParityImages, report: Callable[[str], None]) -> None:
        """`report` is told of each step as it begins."""
        self.checkpoint = checkpoint
        self.images = images
        self.report = report
        report("running the PyTorch reference")
        self.reference: Reference = reference_from_model(checkpoint.model, images.images)

    def build(
        self,
        format_name: str,
        precision: str,
        folder: Path,
        *,
        split: bool = False,
        allow_gate_failure: bool = False,
        overwrite: bool = False,
    ) -> VerifyRow:
        """Write one bundle as `folder/<name>-<format>-<precision>`.

        Raises:
            GateFailure: it misses its parity gate; nothing is written, unless `allow_gate_failure`.
        """
        entry, known_precision = check_format(format_name, precision)
        target = folder / f"{self.checkpoint.identity.name}-{format_name}-{precision}"
        with staged_folder(target, overwrite=overwrite) as staging:
            self.report(f"{target.name}: folding and tracing")
            writer: GraphWriter = _imported(entry.graphs)
            graphs = writer(self.checkpoint.model, staging, split=split)
            write_golden(staging, self.checkpoint.model, self.images.photographs)
            manifest = self._manifest(target.name, entry, known_precision, graphs, staging)
            write_manifest(staging, manifest)
            self.report(f"{target.name}: verifying on {len(self.images.images)} photographs")
            with Tokenizer.load(staging) as tokenizer:
                evidence = gather_evidence(tokenizer, self.reference)
            row = verify_row(target, manifest, evidence)
            if row.gate == "fail":
                if not allow_gate_failure:
                    raise GateFailure(
                        target.name, got="; ".join(row.misses), remedy="pass --allow-gate-failure to write it, marked"
                    )
                evidence = evidence.model_copy(update={"gate_failure_allowed": True})
            write_manifest(staging, with_evidence(manifest, evidence))
        return row

    def _manifest(
        self, name: str, entry: Format, precision: PrecisionName, graphs: dict[str, GraphSpec], folder: Path
    ) -> Manifest:
        config = self.checkpoint.model.config
        info: RuntimeInfo = _imported(entry.info)()
        return Manifest(
            name=name,
            created=utc_now(),
            created_with={"vqrae": version("vqrae"), **info.built_with},
            checkpoint=self.checkpoint.identity,
            graphs=graphs,
            preprocessing=Preprocessing(height=config.image_size, width=config.image_size),
            tokens=Tokens(
                grid=config.grid, codebook_size=config.quantizer.codebook_size, feature_width=config.feature_width
            ),
            precision=Precision(name=precision),
            runtime=info,
            evidence=Evidence(executed=False, reason="not verified yet", gate="not-executed"),
            files=listed_files(folder),
        )


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
