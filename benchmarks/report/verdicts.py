"""The parity of a bundle, from its evidence, in words and figures for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vqrae.benchmarks.candidates.candidate import runtime_title
from vqrae.benchmarks.report.figures import decibels, percent, significant, tiny_percent
from vqrae.runtimes.manifest import Evidence, GateVerdict, Manifest, ParityFigures
from vqrae.runtimes.precision import Limits


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure against its gate."""

    name: str
    value: str
    limit: str
    """Empty where the figure is only reported."""
    kept: bool | None
    """None where there is no limit."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One bundle's parity."""

    bundle: str
    title: str
    """Runtime and precision."""
    gate: GateVerdict
    gate_failure_allowed: bool
    basis: str
    """What the figures were measured on, and why not on the bundle itself or not at all."""
    checks: tuple[Check, ...]
    figures: ParityFigures | None


def verdict(manifest: Manifest) -> Verdict:
    """What a manifest's evidence says."""
    evidence = manifest.evidence
    figures = evidence.figures or (evidence.source.figures if evidence.source else None)
    return Verdict(
        bundle=manifest.name,
        title=f"{runtime_title(manifest.runtime.name)} {manifest.precision.title}",
        gate=evidence.gate,
        gate_failure_allowed=evidence.gate_failure_allowed,
        basis=_basis(manifest.runtime.name, evidence),
        checks=_checks(figures, manifest.precision.limits) if figures else (),
        figures=figures,
    )


def overall_gate(verdicts: Sequence[Verdict]) -> GateVerdict:
    """`fail` if any bundle fails, else `not-executed` if any was not executed (or there is none), else `pass`."""
    gates = {verdict.gate for verdict in verdicts}
    if "fail" in gates:
        return "fail"
    return "not-executed" if "not-executed" in gates or not gates else "pass"


def headline(verdicts: Sequence[Verdict]) -> str:
    """The verdict on all bundles in one sentence."""
    gate, count = overall_gate(verdicts), len(verdicts)
    if gate == "pass":
        return "Still the same tokenizer." if count == 1 else f"Still the same tokenizer, in all {count} bundles."
    if gate == "fail":
        failed = sum(verdict.gate == "fail" for verdict in verdicts)
        return "Not the same tokenizer." if count == 1 else f"Not the same tokenizer in {failed} of {count} bundles."
    unproven = sum(verdict.gate == "not-executed" for verdict in verdicts)
    return "Not proven here." if count <= 1 else f"Not proven here for {unproven} of {count} bundles."


def _basis(runtime: str, evidence: Evidence) -> str:
    source = evidence.source
    if evidence.figures is None:
        text = f"Not executed: {evidence.reason}" if evidence.reason else "Not executed"
        if source is None:
            return text
        elsewhere = f"{runtime_title(source.runtime)} {source.runtime_version}"
        return f"{text}. The figures are of the graphs that it was built from, on {elsewhere}: {source.gate}"
    version = f" {evidence.runtime_version}" if evidence.runtime_version else ""
    by = "operation by operation" if evidence.means == "evaluator" else evidence.device
    measured = f"{evidence.figures.tokens:,} tokens of {evidence.figures.images:,} images"
    return f"{measured}, {runtime_title(runtime)}{version}{f', {by}' if by else ''}"


def _checks(figures: ParityFigures, gate: Limits) -> tuple[Check, ...]:
    agreement, unexplained = gate.min_token_agreement, gate.max_unexplained_mismatches
    return (
        Check(
            name="Excess distortion",
            value=tiny_percent(figures.excess_distortion),
            limit=f"≤ {gate.max_excess_distortion * 100:.6g}%",
            kept=figures.excess_distortion <= gate.max_excess_distortion,
        ),
        Check(
            name="Token agreement",
            value=percent(figures.token_agreement),
            limit="" if agreement is None else f"≥ {agreement * 100:.6g}%",
            kept=None if agreement is None else figures.token_agreement >= agreement,
        ),
        Check(
            name="Unexplained mismatches",
            value=f"{figures.unexplained_mismatches:,}",
            limit="" if unexplained is None else f"≤ {unexplained:,}",
            kept=None if unexplained is None else figures.unexplained_mismatches <= unexplained,
        ),
        Check(
            name="Decoder against reference",
            value=decibels(figures.decode_psnr_db),
            limit=f"≥ {gate.min_decode_psnr_db:g} dB",
            kept=figures.decode_psnr_db >= gate.min_decode_psnr_db,
        ),
        Check(
            name="PSNR lost to the source",
            value=f"{significant(figures.source_psnr_drop_db, 2)} dB",
            limit=f"≤ {gate.max_source_psnr_drop_db:g} dB",
            kept=figures.source_psnr_drop_db <= gate.max_source_psnr_drop_db,
        ),
        Check(name="Largest feature error", value=significant(figures.feature_max_error, 2), limit="", kept=None),
    )
