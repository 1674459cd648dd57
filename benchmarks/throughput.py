"""Offline throughput: photographs on disk to tokens on disk, in turns with the same inference alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vqrae.benchmarks.titles import runtime_title
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.latency import interleave, latency, speedup
from vqrae.runtimes.manifest import Record
from vqrae.runtimes.preprocess import prepare
from vqrae.runtimes.tokenizer import Tokenizer


class Throughput(Record):
    """One bundle at one batch size."""

    bundle: str
    label: str
    """Runtime and precision."""
    batch: int
    threads: int
    """CPU threads that the runtime was given."""
    streams: int = 1
    """Batches that went on at once."""
    images: int
    """Files that were read in each round."""
    images_per_s: float
    """Read, decoded, resized, encoded, and their tokens written; the median round."""
    inference_images_per_s: float
    """Of the same images, from arrays to arrays, batch by batch."""
    share: float
    """Median over rounds of the inference's time / the whole's."""
    share_low: float
    """Lower end of the median's 95 % interval."""
    share_high: float
    """Upper end of the median's 95 % interval."""


def measured_throughputs(
    tokenizers: Sequence[Tokenizer],
    photographs: Sequence[Path],
    *,
    batch: int,
    threads: int,
    streams: int,
    rounds: int,
    progress: Callable[[int, int], None],
) -> Iterator[Throughput]:
    """Every tokenizer's, all in the same rounds.

    The files are in the disk's cache, as a first round leaves them there. What does not fill a batch is left out.

    Raises:
        UsageError: fewer photographs than a batch.
        ImageError: one cannot be read.
    """
    files = list(photographs[: len(photographs) // batch * batch])
    if not files:
        raise UsageError("--throughput", got=f"{len(photographs)} photographs", expected=f"at least {batch}, a batch")
    with tempfile.TemporaryDirectory(prefix="vqrae-throughput-") as folder:
        calls: dict[str, Callable[[], object]] = {}
        for number, tokenizer in enumerate(tokenizers):
            calls[f"whole {number}"] = _whole(tokenizer, files, batch, Path(folder) / f"{number}.npy")
            calls[f"inference {number}"] = _inference(tokenizer, files, batch)
        seconds = interleave(calls, rounds=rounds, warmup=1, progress=progress)
    for number, tokenizer in enumerate(tokenizers):
        whole, inference = seconds[f"whole {number}"], seconds[f"inference {number}"]
        share = speedup(inference, whole)
        yield Throughput(
            bundle=tokenizer.manifest.name,
            label=f"{runtime_title(tokenizer.manifest.runtime.name)} {tokenizer.manifest.precision.title}",
            batch=batch,
            threads=threads,
            streams=streams,
            images=len(files),
            images_per_s=len(files) / latency(whole).p50_ms * 1000,
            inference_images_per_s=len(files) / latency(inference).p50_ms * 1000,
            share=share.speedup,
            share_low=share.speedup_low,
            share_high=share.speedup_high,
        )


def _whole(tokenizer: Tokenizer, files: Sequence[Path], batch: int, output: Path) -> Callable[[], object]:
    def run() -> None:
        np.save(output, tokenizer.encode(files, batch_size=batch).indices, allow_pickle=False)

    return run


def _inference(tokenizer: Tokenizer, files: Sequence[Path], batch: int) -> Callable[[], object]:
    images = np.stack([prepare(file, *tokenizer.image_size) for file in files])
    return lambda: tokenizer.encode(images, batch_size=batch)
