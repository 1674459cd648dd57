"""`vqrae verify`: run bundles against the PyTorch reference again, here and now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.cli.options import AsJson, Device, Threads

if TYPE_CHECKING:
    from vqrae.export.verify import VerifyRow
    from vqrae.runtimes.parity import Reference


def verify(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders.", metavar="BUNDLE...")],
    reference: Annotated[
        str | None, typer.Option(help="The checkpoint; where it lay at export if not given. Its hash must match.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of photographs to verify on; the held-out ones if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Number of photographs.", min=1)] = 16,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Run each BUNDLE and the PyTorch model on the same photographs, and judge by the gate of its precision."""
    from vqrae.cli.needs import needing
    from vqrae.cli.output import print_json, progress_console
    from vqrae.runtimes.bundle import Bundle
    from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable

    with needing("export"):
        from vqrae.export.parity_images import parity_images
        from vqrae.export.reference import reference_from_model
        from vqrae.export.verify import fresh_evidence, reference_checkpoint, verify_row

    opened = [Bundle.open(path) for path in bundles]
    references: dict[str, Reference] = {}
    rows = []
    for bundle in opened:
        key = bundle.manifest.checkpoint.weights_sha256
        with progress_console.status(f"verifying {bundle.path}"):
            if key not in references:
                model = reference_checkpoint(bundle.manifest, reference).model
                photographs = parity_images(data, model.config.image_size, images)
                references[key] = reference_from_model(model, photographs.images)
            evidence = fresh_evidence(bundle.path, references[key], device=device, threads=threads)
        rows.append(verify_row(bundle.path, bundle.manifest, evidence))
    print_json(rows) if as_json else print_rows(rows)
    for row in rows:
        if row.gate == "fail":
            raise GateFailure(row.bundle, got="; ".join(row.misses))
    for row in rows:
        if not row.executed:
            raise RuntimeUnavailable(row.bundle, got=f"not executed ({row.reason})")


def print_rows(rows: Sequence[VerifyRow]) -> None:
    """The verdicts as a table."""
    from vqrae.cli.output import print_table

    columns = ("bundle", "gate", "excess", "tokens", "unexplained", "decode", "ΔPSNR")
    print_table("Parity against PyTorch FP32; excess is excess distortion", columns, (_cells(row) for row in rows))


def _cells(row: VerifyRow) -> tuple[str, ...]:
    identity = (Path(row.bundle).name, row.gate)
    if row.excess_distortion is None or row.token_agreement is None:
        return (*identity, "", "", "", "", "")
    return (
        *identity,
        f"{row.excess_distortion:.5%}",
        f"{row.token_agreement:.2%}",
        str(row.unexplained_mismatches),
        f"{row.decode_psnr_db:.1f} dB",
        f"{row.source_psnr_drop_db:+.4f} dB",
    )
