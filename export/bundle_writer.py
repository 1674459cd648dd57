"""What a bundle holds beside its graphs: golden samples and evidence."""

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
from vqrae.runtimes.golden import GoldenSamples, save_golden
from vqrae.runtimes.manifest import Evidence, Manifest
from vqrae.runtimes.preprocess import prepare

GOLDEN_COUNT = 4


def utc_now() -> str:
    """The present time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def write_golden(folder: Path, model: VQRAE, photographs: Sequence[Image.Image]) -> None:
    """Save the first photographs, and what the reference makes of them, as the bundle's golden samples."""
    height, width = model.size
    with tempfile.TemporaryDirectory() as temporary:
        sources = []
        for number, photograph in enumerate(photographs[:GOLDEN_COUNT]):
            sources.append(Path(temporary) / f"{number}.png")
            golden_source(photograph, model.size).save(sources[-1])
        images = np.stack([prepare(source, height, width) for source in sources])
        reference = reference_from_model(model, images)
        golden = GoldenSamples(
            sources=tuple(sources),
            images=images,
            indices=reference.indices,
            decoded=reference.decoded,
            margins=reference.margins().astype(np.float32),
        )
        save_golden(folder, golden)


def with_evidence(manifest: Manifest, evidence: Evidence) -> Manifest:
    """The manifest, once the bundle that it describes was verified."""
    return manifest.model_copy(update={"evidence": evidence})
