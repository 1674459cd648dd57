"""The parity of a bundle, from its evidence, in words and figures for a reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vqrae.benchmarks.candidates.candidate import runtime_title
from vqrae.benchmarks.report.figures import decibels, percent, significant, tiny_percent
from vqrae.runtimes.evidence import Evidence, GateVerdict, ParityFigures
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.parity import judge_parity, required_figures

_WORDS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "excess distortion": ("Excess distortion", tiny_percent),
    "token agreement": ("Token agreement", percent),
    "unexplained mismatches": ("Unexplained mismatches", "{:,}".format),
    "decode PSNR": ("Decoder against reference", decibels),
    "PSNR drop to source": ("PSNR lost to the source", lambda drop: f"{significant(drop, 2)} dB"),
}
"""Check -> what a reader calls it, and how its figure is told."""


@dataclass(frozen=True, kw_only=True)
class ShownCheck:
    """One figure against its gate, in words."""

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
    checks: tuple[ShownCheck, ...]
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
        checks=_shown(figures, manifest) if figures else (),
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


def _shown(figures: ParityFigures, manifest: Manifest) -> tuple[ShownCheck, ...]:
    checks = judge_parity(figures, manifest.precision.limits, required_figures(manifest))
    shown = [
        ShownCheck(name=name, value=text(check.value), limit=check.limit_text, kept=check.kept)
        for check, (name, text) in ((check, _WORDS[check.name]) for check in checks)
    ]
    error = significant(figures.feature_max_error, 2)
    return (*shown, ShownCheck(name="Largest feature error", value=error, limit="", kept=None))
