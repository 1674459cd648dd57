"""`vqrae inspect`: what a bundle says about itself, every hash checked first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqrae.cli.options import AsJson, BundlePath, PublicKey

if TYPE_CHECKING:
    from vqrae.runtimes.evidence import Evidence, ParityFigures


def inspect(bundle: BundlePath, public_key: PublicKey = None, as_json: AsJson = False) -> None:
    """Show the manifest of a BUNDLE; no runtime is loaded."""
    from vqrae.cli.output import print_fields, print_json
    from vqrae.runtimes.bundle import Bundle

    opened = Bundle.open(bundle, public_key=public_key)
    manifest = opened.manifest
    if as_json:
        print_json(manifest)
        return
    checkpoint, evidence = manifest.checkpoint, manifest.evidence
    weights = "random weights, never trained" if checkpoint.random_weights else checkpoint.weights_sha256
    tokens, size = manifest.tokens, manifest.preprocessing
    h, w = tokens.grid
    several = f"×{tokens.levels}" if tokens.levels > 1 else ""
    told = "no features" if tokens.feature_width is None else f"features {tokens.feature_width} wide"
    fields = {
        "format": f"{manifest.format} {manifest.format_version}, created {manifest.created}",
        "checkpoint": f"{checkpoint.name} from {checkpoint.source} ({weights})",
        "images": f"uint8 {size.height}×{size.width} RGB, {size.rule}",
        "tokens": f"{h}×{w}{several} of {tokens.codebook_size} codes; {told}",
        "precision": manifest.precision.title,
        "kept in float": ", ".join(kept.layer for kept in manifest.precision.kept_float) or "nothing else",
        "runtime": f"{manifest.runtime.name}, built with {_pairs(manifest.runtime.built_with)}",
        "hardware": manifest.runtime.hardware or "any that the runtime knows",
        "graphs": ", ".join(manifest.graphs),
        "files": f"{len(manifest.files)}, {opened.size_bytes / 1e6:.1f} MB, all hashes match",
        "signature": "not looked at" if public_key is None else f"valid, by {public_key}",
        "parity": evidence.gate + (" (written all the same)" if evidence.gate_failure_allowed else ""),
        "executed": _executed(evidence),
    }
    if manifest.calibration is not None:
        made = manifest.calibration
        fields["calibrated on"] = (
            f"{made.count} images, seed {made.seed}, which use {made.codebook_coverage:.1%} of the codes; {made.plan}"
        )
    if evidence.figures is not None:
        fields["figures"] = _described(evidence.figures)
    if evidence.source is not None:
        source = evidence.source
        fields["its ONNX graphs"] = f"{source.gate}, on {source.runtime} {source.runtime_version}"
        fields["their figures"] = _described(source.figures)
    print_fields(manifest.name, fields)


def _executed(evidence: Evidence) -> str:
    if not evidence.executed:
        return f"no: {evidence.reason}"
    means = ", by an evaluator, operation by operation" if evidence.means == "evaluator" else ""
    return f"{evidence.machine}, device {evidence.device}, precision {evidence.precision}{means}"


def _described(figures: ParityFigures) -> str:
    told = (
        (figures.excess_distortion, "excess distortion {:.5%}"),
        (figures.token_agreement, "token agreement {:.2%}"),
        (figures.unexplained_mismatches, "{} unexplained mismatches"),
        (figures.decode_psnr_db, "decode {:.1f} dB"),
    )
    return ", ".join(text.format(figure) for figure, text in told if figure is not None)


def _pairs(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
