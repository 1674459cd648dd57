"""Run a bundle against the PyTorch reference and judge it by its precision's gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from vqrae.checkpoint import WEIGHTS_FILE, Checkpoint, open_checkpoint
from vqrae.export.bundle_writer import utc_now
from vqrae.export.reference import sample_from_tokenizer
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import CheckpointError, RuntimeUnavailable, UsageError
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import Evidence, GateVerdict, Manifest, ParityFigures, PrecisionName
from vqrae.runtimes.parity import GATES, Reference, judge, measure
from vqrae.runtimes.tokenizer import Tokenizer


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
    gate: GateVerdict
    misses: tuple[str, ...]
    """The limits of the gate that were missed, each with both numbers."""
    images: int | None = None
    tokens: int | None = None
    excess_distortion: float | None = None
    """A fraction: 0.0001 is 0.01 %."""
    token_agreement: float | None = None
    mismatches: int | None = None
    unexplained_mismatches: int | None = None
    feature_cosine: float | None = None
    feature_max_error: float | None = None
    decode_psnr_db: float | None = None
    source_psnr_drop_db: float | None = None
    source_ssim_drop: float | None = None


def gather_evidence(tokenizer: Tokenizer, reference: Reference) -> Evidence:
    """Execute a tokenizer on the reference's images and record what came out."""
    figures = measure(reference, sample_from_tokenizer(tokenizer, reference))
    execution = tokenizer.execution["encode"]
    missed = judge(figures, GATES[tokenizer.manifest.precision.name])
    return Evidence(
        executed=True,
        gate="fail" if missed else "pass",
        runtime_version=execution.runtime_version,
        device=execution.device,
        machine=str(this_machine()),
        date=utc_now(),
        figures=figures,
    )


def fresh_evidence(bundle: Path, reference: Reference, *, device: str, threads: int | None) -> Evidence:
    """Evidence of a bundle here and now; where its runtime is not available, evidence that it was not executed."""
    try:
        with Tokenizer.load(bundle, device=device, threads=threads) as tokenizer:
            return gather_evidence(tokenizer, reference)
    except RuntimeUnavailable as error:
        return Evidence(executed=False, reason=str(error), gate="not-executed")


def verify_row(bundle: Path, manifest: Manifest, evidence: Evidence) -> VerifyRow:
    """Flatten evidence into a row."""
    figures = evidence.figures
    return VerifyRow(
        bundle=str(bundle),
        runtime=manifest.runtime.name,
        runtime_version=evidence.runtime_version,
        precision=manifest.precision.name,
        device=evidence.device,
        executed=evidence.executed,
        reason=evidence.reason,
        gate=evidence.gate,
        misses=tuple(judge(figures, GATES[manifest.precision.name])) if figures else (),
        **_shared_fields(figures),
    )


def _shared_fields(figures: ParityFigures | None) -> dict[str, Any]:
    return {} if figures is None else figures.model_dump(include=set(VerifyRow.model_fields))


def reference_source(manifest: Manifest, source: str | None) -> str:
    """Where the checkpoint that a bundle was made of lies, its weights' hash compared.

    Args:
        manifest: names the checkpoint.
        source: where it lies now; None looks where it lay when the bundle was made.

    Raises:
        UsageError: there is nothing at that place.
        CheckpointError: what is there is another checkpoint.
    """
    named = manifest.checkpoint
    place = source or named.source
    if named.random_weights and source is None:
        return place  # a preset's name: the weights are made anew from their seed
    weights = Path(place) / WEIGHTS_FILE
    if not weights.is_file():
        remedy = "pass --reference CHECKPOINT"
        raise UsageError(f"reference {place}", got="no checkpoint's folder", expected=named.name, remedy=remedy)
    _compare_hashes(place, sha256_file(weights), named.name, named.weights_sha256)
    return place


def reference_checkpoint(manifest: Manifest, source: str | None) -> Checkpoint:
    """Open the checkpoint that a bundle was made of; arguments and errors as for `reference_source`."""
    checkpoint = open_checkpoint(reference_source(manifest, source))
    named, found = manifest.checkpoint, checkpoint.identity
    _compare_hashes(found.source, found.weights_sha256, named.name, named.weights_sha256)
    _compare_hashes(found.source, found.config_sha256, named.name, named.config_sha256)
    return checkpoint


def _compare_hashes(place: str, got: str, name: str, expected: str) -> None:
    if got != expected:
        raise CheckpointError(f"reference {place}", got=f"SHA-256 {got[:12]}…", expected=f"{expected[:12]}… of {name}")
