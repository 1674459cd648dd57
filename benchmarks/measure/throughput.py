"""Photographs on disk to tokens on disk, in turns with the same inference alone; and what happens around inference.

Around it, an image file is read and decoded, resized, and written as PNG. Normalization is part of the graphs: bytes go
in and bytes come out.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.benchmarks.candidates.candidate import runtime_title
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.latency import interleave, latency, speedup
from vqrae.runtimes.preprocess import open_image, prepare
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
        yield Throughput(
            bundle=tokenizer.manifest.name,
            label=f"{runtime_title(tokenizer.manifest.runtime.name)} {tokenizer.manifest.precision.title}",
            batch=batch,
            threads=threads,
            streams=streams,
            images=len(files),
            **_rates(len(files), whole, inference),
        )


def _rates(images: int, whole: Sequence[float], inference: Sequence[float]) -> dict[str, float]:
    share = speedup(inference, whole)
    return {
        "images_per_s": images / latency(whole).p50_ms * 1000,
        "inference_images_per_s": images / latency(inference).p50_ms * 1000,
        "share": share.speedup,
        "share_low": share.speedup_low,
        "share_high": share.speedup_high,
    }


def _whole(tokenizer: Tokenizer, files: Sequence[Path], batch: int, output: Path) -> Callable[[], object]:
    def run() -> None:
        np.save(output, tokenizer.encode(files, batch_size=batch).indices, allow_pickle=False)

    return run


def _inference(tokenizer: Tokenizer, files: Sequence[Path], batch: int) -> Callable[[], object]:
    images = np.stack([prepare(file, *tokenizer.image_size) for file in files])
    return lambda: tokenizer.encode(images, batch_size=batch)


MOST_IMAGES = 8
"""More would tell no more, and take longer."""


class Handling(Record):
    """Medians for one image, in milliseconds, on one thread; the same whatever runtime does the rest."""

    images: int
    """Files that each round goes through."""
    read_ms: float
    """From the file, which is in the disk's cache, to RGB pixels."""
    resize_ms: float
    """From these to the tokenizer's size, by the preprocessing rule."""
    write_ms: float
    """From a decoded image of that size to the bytes of a PNG."""


def measured_handling(
    photographs: Sequence[Path], size: tuple[int, int], *, rounds: int, progress: Callable[[int, int], None]
) -> Handling:
    """Time the three steps in turns, each over all files.

    Args:
        photographs: image files; of more than `MOST_IMAGES` the first.
        size: the tokenizer's, in pixels (H, W).
        rounds: timed turns.
        progress: called after every turn with the turns done and the turns in all.

    Raises:
        ImageError: a file cannot be read.
    """
    files = photographs[:MOST_IMAGES]
    sources = [open_image(file) for file in files]
    images = [prepare(source, *size) for source in sources]
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: [open_image(file) for file in files],
        "resize": lambda: [prepare(source, *size) for source in sources],
        "write": lambda: [_png(image) for image in images],
    }
    seconds = interleave(calls, rounds=rounds, warmup=1, progress=progress)
    read, resize, write = (latency(seconds[name]).p50_ms / len(files) for name in calls)
    return Handling(images=len(files), read_ms=read, resize_ms=resize, write_ms=write)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
