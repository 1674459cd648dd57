"""What was measured of a bundle, where, and the verdict: the part of its manifest that says that nothing was lost."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, model_validator

from vqrae.runtimes.json_text import Record

GateVerdict = Literal["pass", "fail", "not-executed"]


class MarginHistogram(Record):
    """How many tokens, and how many mismatches, have a reference top-2 score margin between two edges."""

    edges: tuple[float, ...]
    tokens: tuple[int, ...]
    mismatches: tuple[int, ...]

    @model_validator(mode="after")
    def _same_bins(self) -> Self:
        if len(self.tokens) != len(self.mismatches):
            raise ValueError("as many bins of tokens as of mismatches")
        return self


class ParityFigures(Record):
    """Bundle against reference, measured on the same images; None where a bundle lacks the graph or output for it.

    A broken runtime may give NaN, which misses every gate; such figures can be judged but not written.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    images: int
    """Number of images compared."""
    tokens: int
    """Number of tokens compared."""
    excess_distortion: float | None
    """Σ‖z - chosen code‖² / Σ‖z - best code‖² - 1, a fraction: 0.0001 is 0.01%."""
    token_agreement: float | None
    """Fraction of tokens with the reference's index."""
    mismatches: int | None
    """Number of tokens with another index."""
    unexplained_mismatches: int | None
    """Those that cost more, in the reference's terms, than the token's own feature error and rounding explain."""
    noise: float | None
    """The most that feature error and rounding moved a top-2 score margin; `selftest` compares margins with it."""
    feature_cosine: float | None
    """Mean cosine of the continuous features."""
    feature_max_error: float | None
    """Largest absolute difference of the continuous features."""
    decode_psnr_db: float | None
    """PSNR in dB between both decoders' images from the same indices."""
    source_psnr_drop_db: float | None
    """The reference's PSNR to the source images minus the bundle's, in dB."""
    source_ssim_drop: float | None = None
    """The reference's SSIM to the source images minus the bundle's; None where it was not measured."""
    margin_histogram: MarginHistogram | None = None


class SourceEvidence(Record):
    """The graphs that an artifact was built from, executed by another runtime: less than evidence of the artifact."""

    runtime: str
    runtime_version: str
    gate: Literal["pass", "fail"]
    figures: ParityFigures


class Evidence(Record):
    """Whether and where the bundle was executed, what was measured, and the gate's verdict."""

    executed: bool
    means: Literal["runtime", "evaluator"] = "runtime"
    """Who executed it: the runtime itself, or an evaluator that repeats the artifact's operations one by one, by their
    reference semantics, on a machine that the runtime does not exist for."""
    reason: str | None = None
    """Why it was not executed; required then."""
    gate: GateVerdict
    gate_failure_allowed: bool = False
    """Written although the gate was missed, because the user asked for it."""
    runtime_version: str | None = None
    device: str | None = None
    precision: str | None = None
    """The precision that ran, as the runtime tells it."""
    machine: str | None = None
    date: str | None = None
    """ISO 8601, UTC; None where it was gathered when the bundle was created."""
    figures: ParityFigures | None = None
    source: SourceEvidence | None = None
    """Of a bundle that was not executed: what its source graphs did elsewhere."""

    @model_validator(mode="after")
    def _says_where_it_comes_from(self) -> Self:
        if not self.executed and not self.reason:
            raise ValueError("a reason, because the bundle was not executed")
        if self.executed and (self.figures is None or self.gate == "not-executed"):
            raise ValueError("figures and a verdict, because the bundle was executed")
        if not self.executed and (self.figures is not None or self.gate != "not-executed"):
            raise ValueError("no figures and no verdict, because the bundle was not executed")
        return self
