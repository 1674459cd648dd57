"""Several bundles of one checkpoint on the same photographs: each against the reference, and every pair of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrae.export.parity_images import parity_images
from vqrae.export.reference import reference_from_model, sample_from_tokenizer
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.export.verify import VerifyRow, evidence_of, source_evidence, verify_row
from vqrae.images.report import note_aside
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.evidence import Evidence
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.parity import Check, Reference, mean_psnr_db, misses
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.subject import reference_checkpoint

Indices = dict[str, NDArray[np.int32]]
"""Bundle's path -> the indices (B, h, w) that it made of the reference's images."""


def verify_all(
    paths: Sequence[Path | str],
    options: LoadOptions,
    reference: str | None,
    data: Path | None,
    images: int,
    report: Callable[[str], None],
    note: Callable[[str], None],
) -> list[VerifyRow]:
    """A row for each bundle, of whatever checkpoints they are; see `vqrae.verify`."""
    rows: list[VerifyRow] = []
    for alike in _alike([Bundle.open(path, public_key=options.public_key) for path in paths]):
        report(f"running the reference of {alike[0].path}")
        checkpoint = reference_checkpoint(alike[0].manifest, reference)
        photographs = parity_images(data, checkpoint.model.size, images)
        note_aside("verification", photographs, note)
        made = reference_from_model(VqraeTokenizer(checkpoint), photographs.images)
        rows += verify_bundles(alike, made, options, report)
    order = [str(Path(path)) for path in paths]
    return sorted(rows, key=lambda row: order.index(row.bundle))


def _alike(bundles: Sequence[Bundle]) -> list[list[Bundle]]:
    """Bundles of one checkpoint at one image size, which share a reference and understand each other's tokens."""
    groups: dict[tuple[str, int, int], list[Bundle]] = {}
    for bundle in bundles:
        manifest, size = bundle.manifest, bundle.manifest.preprocessing
        groups.setdefault((manifest.checkpoint.weights_sha256, size.height, size.width), []).append(bundle)
    return list(groups.values())


def verify_bundles(
    bundles: Sequence[Bundle], reference: Reference, options: LoadOptions, report: Callable[[str], None]
) -> list[VerifyRow]:
    """A row for each bundle; where two or more can run here, it also tells how each decodes the others' tokens.

    One bundle at a time is loaded. A pair that loses more than the laxer of both gates is a miss of the decoder's row.

    Raises:
        BundleError: a bundle is of another preprocessing rule, or its runtime refuses it.
        UsageError: a runtime does not know the device.
    """
    rows: list[VerifyRow] = []
    indices: Indices = {}
    for bundle in bundles:
        report(f"verifying {bundle.path}")
        evidence = _examined(bundle, reference, options, indices)
        rows.append(verify_row(bundle.path, bundle.manifest, evidence))
    if len(indices) < 2:
        return rows
    limits = {str(bundle.path): _psnr_limit(bundle) for bundle in bundles}
    for number, bundle in enumerate(bundles):
        if str(bundle.path) in indices and "decode" in bundle.manifest.graphs:
            report(f"decoding all tokens with {bundle.path}")
            with Tokenizer.from_bundle(bundle, options) as tokenizer:
                rows[number] = _with_interchange(rows[number], interchange(tokenizer, indices, reference), limits)
    return rows


def interchange(decoder: Tokenizer, indices: Indices, reference: Reference) -> dict[str, float]:
    """What is lost when one bundle decodes the tokens that others made.

    Returns:
        Encoder's path -> the reference's PSNR to the source images minus the pair's, in dB.

    Raises:
        RuntimeUnavailable: the decoder's runtime failed.
    """
    if reference.reconstructed is None:
        return {}
    whole = mean_psnr_db(reference.images, reference.reconstructed)
    return {path: whole - mean_psnr_db(reference.images, decoder.decode(made)) for path, made in indices.items()}


def _examined(bundle: Bundle, reference: Reference, options: LoadOptions, indices: Indices) -> Evidence:
    """Evidence here and now, its indices added to `indices`; where the runtime is not here, evidence of the sources."""
    try:
        with Tokenizer.from_bundle(bundle, options) as tokenizer:
            sample = sample_from_tokenizer(tokenizer, reference)
            if sample.indices is not None:
                indices[str(bundle.path)] = sample.indices
            return evidence_of(sample, tokenizer, reference)
    except RuntimeUnavailable as error:
        reason, source = str(error), None
        try:
            source = source_evidence(bundle, reference)
        except RuntimeUnavailable as other:
            reason = f"{reason}; nor its source graphs: {other}"
        return Evidence(executed=False, reason=reason, gate="not-executed", source=source)


def _psnr_limit(bundle: Bundle) -> float:
    return bundle.manifest.precision.limits.max_source_psnr_drop_db


def _with_interchange(row: VerifyRow, drops: dict[str, float], limits: dict[str, float]) -> VerifyRow:
    checks = []
    for path, drop in drops.items():
        name, limit = f"PSNR drop to source with tokens of {path}", max(limits[path], limits[row.bundle])
        if path != row.bundle:
            checks.append(Check(name, drop, "<=", limit, " dB"))
    missed = (*row.misses, *misses(checks))
    gate = "fail" if missed else row.gate
    return row.model_copy(update={"interchange": drops, "misses": missed, "gate": gate})
