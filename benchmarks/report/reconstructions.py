"""Photographs and what each runtime keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.candidates.candidate import runtime_title
from vqrae.benchmarks.rows import BenchResult
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.tokenizer import Tokenizer

MOST_PICTURES = 3
"""Photographs that a report shows of each bundle: it holds them all, and is to stay small."""
REFERENCE = "PyTorch FP32"


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Photographs and what tokenizers keep of them."""

    originals: NDArray[np.uint8]
    """(B, H, W, 3), after preprocessing."""
    labels: Sequence[str]
    """One per photograph; may be empty strings."""
    of: Mapping[str, NDArray[np.uint8]]
    """Who -> uint8 (B, H, W, 3)."""


def golden_reconstructions(
    bundles: Sequence[Path],
    result: BenchResult,
    options: LoadOptions = LoadOptions(),
) -> Reconstructions | None:
    """What the bundles that were timed make of the first one's golden samples, beside what PyTorch made of them.

    None where none was timed. A bundle of another image size than the first is left out.

    Args:
        bundles: their folders.
        result: says which of them run here.
        options: how they are loaded.

    Raises:
        BundleError: a bundle is invalid.
        RuntimeUnavailable: a runtime failed.
    """
    executed = {row.bundle for row in result.rows if row.executed and row.kind == "bundle"}
    originals: NDArray[np.uint8] | None = None
    found: dict[str, NDArray[np.uint8]] = {}
    for path in bundles:
        with Tokenizer.open(path, options) as tokenizer:
            manifest = tokenizer.manifest
            if manifest.name not in executed:
                continue
            golden = tokenizer.bundle.golden()
            if golden.images is None or golden.decoded is None:
                continue  # without one of the graphs nothing is reconstructed
            if originals is None:
                originals = golden.images[:MOST_PICTURES]
                found[REFERENCE] = golden.decoded[:MOST_PICTURES]
            if originals.shape[1:3] == tokenizer.image_size:
                label = f"{runtime_title(manifest.runtime.name)} {manifest.precision.title}"
                found[label if label not in found else f"{label} ({manifest.name})"] = tokenizer.reconstruct(originals)
    if originals is None:
        return None
    return Reconstructions(originals=originals, labels=[""] * len(originals), of=found)
