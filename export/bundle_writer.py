"""What a bundle holds beside its graphs: golden samples, and when it was made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from vqrae.export.deployable import Deployable
from vqrae.export.parity_images import golden_source
from vqrae.export.reference import reference_from_model
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.golden import GoldenSamples, save_golden
from vqrae.runtimes.preprocess import prepare

GOLDEN_COUNT = 4


def creation_time() -> str:
    """The present time, or that of `SOURCE_DATE_EPOCH`; ISO 8601 in UTC, to the second.

    All else in a bundle follows from what it was made of and with, so that whoever sets the variable
    (reproducible-builds.org) gets the same bytes twice.

    Raises:
        UsageError: the variable holds no count of seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if given is None else datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError("SOURCE_DATE_EPOCH", got=str(given), expected="seconds since 1970") from error
    return moment.replace(microsecond=0).isoformat()


def write_golden(
    folder: Path, tokenizer: Deployable, graphs: Collection[str], photographs: Sequence[Image.Image]
) -> None:
    """Save the first photographs, and what the reference makes of them, as the golden samples of a bundle's graphs."""
    encodes, size = "encode" in graphs, (tokenizer.preprocessing.height, tokenizer.preprocessing.width)
    with tempfile.TemporaryDirectory() as temporary:
        sources = []
        for number, photograph in enumerate(photographs[:GOLDEN_COUNT]):
            sources.append(Path(temporary) / f"{number}.png")
            golden_source(photograph, size).save(sources[-1], optimize=True)
        images = np.stack([prepare(source, *size) for source in sources])
        reference = reference_from_model(tokenizer, images, graphs)
        golden = GoldenSamples(
            sources=tuple(sources) if encodes else (),
            photographs=tuple(source.read_bytes() for source in sources) if encodes else (),
            images=images if encodes else None,
            indices=reference.indices,
            decoded=reference.decoded,
            margins=reference.margins().astype(np.float32) if encodes else None,
        )
        save_golden(folder, golden)
