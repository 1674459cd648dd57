"""Is this bundle, on this machine, still the tokenizer that it was made from? Answered without torch.

Covered: the preprocessing rule byte for byte, the tokens and decoded images of the golden samples, against the gate of
the bundle's precision. Not covered: excess distortion and the drop to the source images, which need the reference.
"""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.parity import judge, psnr_db, required_figures
from vqrae.runtimes.precision import PrecisionName
from vqrae.runtimes.preprocess import prepare, read_image
from vqrae.runtimes.tokenizer import Tokenizer

_FORMATS = {"token agreement": (".4f", ".4f"), "decode PSNR": (".2f",)}
"""How a missed figure, and its limit, are told."""


class SelftestReport(BaseModel):
    """What was measured, and the verdict; a figure is None where the bundle lacks the graph for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    runtime: str
    runtime_version: str
    precision: PrecisionName
    device: str
    executed: bool = True
    """Always: a selftest that cannot execute is an error."""
    preprocessing_equal: bool | None
    """The rule gives the golden images byte for byte."""
    token_agreement: float | None
    """Fraction of tokens with the reference's index."""
    mismatches: int | None
    unexplained_mismatches: int | None
    """Mismatches whose reference margin exceeds the noise that the bundle's evidence recorded (of its source graphs, if
    it was not executed; 0 if there is none)."""
    decode_psnr_db: float | None
    gate: Literal["pass", "fail"]
    misses: tuple[str, ...]
    """What missed the gate, each with its figure and limit."""
    seconds: float
    """Wall-clock time, loading included if a path was given."""


def selftest(
    bundle: Tokenizer | Path | str, options: LoadOptions | None = None, *, rebuild: bool = False
) -> SelftestReport:
    """Replay a bundle's golden samples: does it do here what the model did at export?

    Args:
        bundle: a bundle's folder, or a tokenizer, which stays open and was loaded as it was.
        options: how a folder is loaded, and who must have signed it.
        rebuild: see `Tokenizer.load`.

    Raises:
        BundleError: the bundle is invalid, or has no golden samples.
        SignatureError: it is not signed by the key that was given.
        RuntimeUnavailable: its runtime is not installed, or failed.
    """
    started = time.perf_counter()
    if isinstance(bundle, Tokenizer):
        return _report(bundle, started)
    with Tokenizer.open(bundle, options or LoadOptions(), rebuild=rebuild) as tokenizer:
        return _report(tokenizer, started)


def _report(tokenizer: Tokenizer, started: float) -> SelftestReport:
    tokenizer.bundle.check_all()
    golden, manifest = tokenizer.bundle.golden(), tokenizer.manifest
    equal = agreement = mismatches = unexplained = psnr = None
    if golden.images is not None and golden.margins is not None:
        equal = all(
            np.array_equal(prepare(read_image(str(source), BytesIO(content)), *tokenizer.image_size), image)
            for source, content, image in zip(golden.sources, golden.photographs, golden.images, strict=True)
        )
        flipped, noise = tokenizer.encode(golden.images).indices != golden.indices, _noise(manifest)
        agreement, mismatches = float(1 - flipped.mean()), int(flipped.sum())
        unexplained = None if noise is None else int((flipped & (golden.margins > noise)).sum())
    if golden.decoded is not None:
        psnr = psnr_db(tokenizer.decode(golden.indices), golden.decoded)
    misses = _misses(manifest, equal, agreement, unexplained, psnr)
    execution = tokenizer.main_execution
    return SelftestReport(
        bundle=manifest.name,
        runtime=execution.runtime,
        runtime_version=execution.runtime_version,
        precision=manifest.precision.name,
        device=execution.device,
        preprocessing_equal=equal,
        token_agreement=agreement,
        mismatches=mismatches,
        unexplained_mismatches=unexplained,
        decode_psnr_db=psnr,
        gate="fail" if misses else "pass",
        misses=misses,
        seconds=time.perf_counter() - started,
    )


def _noise(manifest: Manifest) -> float | None:
    """What the bundle's evidence recorded, 0 if there is none; None where the bundle has no features to tell it by."""
    evidence = manifest.evidence
    measured = evidence.figures or (evidence.source.figures if evidence.source else None)
    return measured.noise if measured else 0.0


def _misses(
    manifest: Manifest, equal: bool | None, agreement: float | None, unexplained: int | None, psnr: float | None
) -> tuple[str, ...]:
    """What is wrong, in words; golden samples tell less than the reference, so only these figures are judged."""
    figures = {"token_agreement": agreement, "unexplained_mismatches": unexplained, "decode_psnr_db": psnr}
    required = figures.keys() & {*required_figures(manifest)}
    missed = [check for check in judge(figures, manifest.precision.limits, required) if check.kept is False]
    preprocessing = ("preprocessing differs from the golden images",) if equal is False else ()
    return (*preprocessing, *(check.miss(*_FORMATS.get(check.name, ())) for check in missed))
