"""What `vqrae eval` and `vqrae generate` take: a checkpoint in PyTorch, or a bundle through its runtime."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vqrae.model import VQRAE
    from vqrae.model.reference import ArrayTokenizer
    from vqrae.runtimes.session import SessionOptions


class Judged(NamedTuple):
    """A tokenizer, deployed or not."""

    tokenizer: ArrayTokenizer
    size: tuple[int, int]
    """(H, W) in pixels."""
    grid: tuple[int, int]
    """Token grid (h, w)."""
    codebook_size: int
    weights_sha256: str
    """Of the checkpoint's weights, or of those that the bundle was made of."""
    model: VQRAE | None
    """Its weights, where they are at hand."""


def open_judged(source: Path, options: SessionOptions, checkpoint: Path | None, closing: ExitStack) -> Judged:
    """Open a checkpoint's or a bundle's folder; `checkpoint` is the one that the bundle was made of."""
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.manifest import MANIFEST_FILE

    if (source / MANIFEST_FILE).exists():
        return _open_bundle(source, options, checkpoint, closing)
    if checkpoint is not None:
        raise UsageError("--checkpoint", got=f"{source}, which is no bundle", expected="a bundle to be evaluated")
    return _open_checkpoint(source, options)


def _open_bundle(source: Path, options: SessionOptions, checkpoint: Path | None, closing: ExitStack) -> Judged:
    from vqrae.export.tokenizers.vqrae import reference_checkpoint
    from vqrae.runtimes.bundle import Bundle
    from vqrae.runtimes.tokenizer import Tokenizer

    bundle = Bundle.open(source)
    model = None
    if checkpoint is not None:
        model = reference_checkpoint(bundle.manifest, str(checkpoint), option="--checkpoint").model
    tokenizer = closing.enter_context(Tokenizer.from_bundle(bundle, options))
    digest = bundle.manifest.checkpoint.weights_sha256
    return Judged(tokenizer, tokenizer.image_size, tokenizer.grid, tokenizer.codebook_size, digest, model)


def _open_checkpoint(source: Path, options: SessionOptions) -> Judged:
    """In PyTorch on the CPU."""
    import torch

    from vqrae.checkpoint import WEIGHTS_FILE, from_pretrained
    from vqrae.model.reference import ReferenceTokenizer
    from vqrae.runtimes.bundle import sha256_file
    from vqrae.runtimes.errors import UsageError

    if options.device not in (None, "cpu"):
        raise UsageError("--device", got=options.device, expected="cpu, where checkpoints are evaluated")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = from_pretrained(source)
    codes, digest = model.config.quantizer.codebook_size, sha256_file(source / WEIGHTS_FILE)
    return Judged(ReferenceTokenizer(model), model.size, model.grid, codes, digest, model)
