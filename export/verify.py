"""Run a bundle against the PyTorch reference and judge it by its precision's gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from vqrae.export.job import SOURCE_RUNTIME
from vqrae.export.reference import sample_from_tokenizer
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.evidence import Evidence, GateVerdict, ParityFigures, SourceEvidence
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import GraphSpec, Manifest, RuntimeInfo
from vqrae.runtimes.parity import Reference, Sample, judge_parity, measure, misses, required_figures
from vqrae.runtimes.precision import PrecisionName
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.tokenizer import Tokenizer

_NOT_TOLD = ("noise", "margin_histogram")
"""Figures that only the manifest holds."""


class VerifyRow(BaseModel):
    """One bundle's verdict: a row of `vqrae verify`."""

    model_config = ConfigDict(frozen=True)

    bundle: str
    runtime: str
    runtime_version: str | None
    precision: PrecisionName
    device: str | None
    executed: bool
    reason: str | None
    """Why it was not executed."""
    means: Literal["runtime", "evaluator"]
    """Who executed it: see `manifest.Evidence`."""
    gate: GateVerdict
    misses: tuple[str, ...]
    """The limits of the gate that were missed, each with both numbers; of a bundle that was not executed, those that
    its source graphs missed elsewhere."""
    interchange: dict[str, float] | None = None
    """Encoder's bundle -> what is lost when this bundle decodes its tokens: the reference's PSNR to the source images
    minus the pair's, in dB. None where one bundle was verified alone."""
    int8_share: float | None = None
    """Of INT8: the share of the multiplications that it does."""
    codebook_coverage: float | None = None
    """Of INT8: the share of the codes that its calibration images use."""
    speedup: dict[str, float] | None = None
    """Of INT8, when it is built: graph -> times faster than the fastest float precision of its format, at batch 1. None
    where it was not measured, as where the bundle cannot be executed."""
    source_gate: Literal["pass", "fail"] | None = None
    """Of a bundle that was not executed: the verdict on the graphs that it was built from, by another runtime."""
    figures: ParityFigures | None = None
    """What was measured; None where it was not executed. In JSON its fields stand beside the others."""

    @model_serializer(mode="wrap")
    def _flat(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = written(self)
        figures = row.pop("figures") or {}
        return row | {name: figures.get(name) for name in ParityFigures.model_fields if name not in _NOT_TOLD}


def _misses(figures: ParityFigures, manifest: Manifest) -> tuple[str, ...]:
    return misses(judge_parity(figures, manifest.precision.limits, required_figures(manifest)))


def gather_evidence(tokenizer: Tokenizer, reference: Reference) -> Evidence:
    """Execute a tokenizer on the reference's images and record what came out."""
    return evidence_of(sample_from_tokenizer(tokenizer, reference), tokenizer, reference)


def evidence_of(sample: Sample, tokenizer: Tokenizer, reference: Reference) -> Evidence:
    """Judge what a tokenizer made of the reference's images."""
    figures = measure(reference, sample)
    execution = tokenizer.main_execution
    missed = _misses(figures, tokenizer.manifest)
    return Evidence(
        executed=True,
        means=execution.means,
        gate="fail" if missed else "pass",
        runtime_version=execution.runtime_version,
        device=execution.device,
        precision=execution.precision,
        machine=str(this_machine()),
        figures=figures,
    )


def source_evidence(bundle: Bundle, reference: Reference) -> SourceEvidence | None:
    """Run the ONNX graphs that a bundle's artifacts were built from on ONNX Runtime; None if it does not hold them.

    Raises:
        RuntimeUnavailable: ONNX Runtime is not installed.
    """
    manifest = bundle.manifest
    if any(graph.source is None for graph in manifest.graphs.values()):
        return None
    sources = {
        name: GraphSpec(
            file=graph.source or "",
            extra_files=graph.source_extra_files,
            inputs=graph.inputs,
            outputs=graph.outputs,
        )
        for name, graph in manifest.graphs.items()
    }
    changes = {"graphs": sources, "runtime": RuntimeInfo(name=SOURCE_RUNTIME, built_with={})}
    stand_in = replace(bundle, manifest=manifest.model_copy(update=changes))
    with Tokenizer(stand_in, session_class(SOURCE_RUNTIME), LoadOptions()) as tokenizer:
        evidence = gather_evidence(tokenizer, reference)
    assert evidence.figures is not None, "it was executed"  # noqa: S101
    return SourceEvidence(
        runtime=SOURCE_RUNTIME,
        runtime_version=evidence.runtime_version or "",
        gate="fail" if evidence.gate == "fail" else "pass",
        figures=evidence.figures,
    )


def verify_row(bundle: Path, manifest: Manifest, evidence: Evidence) -> VerifyRow:
    """Flatten evidence into a row."""
    figures, source = evidence.figures, evidence.source
    judged = source.figures if source else figures
    return VerifyRow(
        bundle=str(bundle),
        runtime=manifest.runtime.name,
        runtime_version=evidence.runtime_version,
        precision=manifest.precision.name,
        int8_share=manifest.precision.int8_share,
        codebook_coverage=manifest.calibration.codebook_coverage if manifest.calibration else None,
        device=evidence.device,
        executed=evidence.executed,
        reason=evidence.reason,
        means=evidence.means,
        gate=evidence.gate,
        misses=_misses(judged, manifest) if judged else (),
        source_gate=source.gate if source else None,
        figures=figures,
    )
