"""Write a bundle's folder: golden samples, the list of files with their hashes, the manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from vqrae.export.parity_images import golden_source
from vqrae.export.reference import reference_from_model
from vqrae.model import VQRAE
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.golden import GoldenSamples, save_golden
from vqrae.runtimes.manifest import MANIFEST_FILE, Evidence, FileEntry, Manifest
from vqrae.runtimes.preprocess import prepare

GOLDEN_COUNT = 4


def utc_now() -> str:
    """The present time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def write_golden(folder: Path, model: VQRAE, photographs: Sequence[Image.Image]) -> None:
    """Save the first photographs, and what the reference makes of them, as the bundle's golden samples."""
    size = model.config.image_size
    with tempfile.TemporaryDirectory() as temporary:
        sources = []
        for number, photograph in enumerate(photographs[:GOLDEN_COUNT]):
            sources.append(Path(temporary) / f"{number}.png")
            golden_source(photograph, size).save(sources[-1])
        images = np.stack([prepare(source, size, size) for source in sources])
        reference = reference_from_model(model, images)
        golden = GoldenSamples(
            sources=tuple(sources),
            images=images,
            indices=reference.indices,
            decoded=reference.decoded,
            margins=reference.margins().astype(np.float32),
        )
        save_golden(folder, golden)


def listed_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below the folder but the manifest, in path order, with size and SHA-256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_FILE)
    return tuple(
        FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; the folder is still a staging one, so nothing reads it half-written."""
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def with_evidence(manifest: Manifest, evidence: Evidence) -> Manifest:
    """The manifest, once the bundle that it describes was verified."""
    return manifest.model_copy(update={"evidence": evidence})
