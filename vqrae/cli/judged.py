"""What `vqrae eval` and `vqrae generate` take: a checkpoint in PyTorch, or a bundle through its runtime."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vqrae.runtimes.load_options import LoadOptions

if TYPE_CHECKING:
    from vqrae.model import VQRAE
    from vqrae.model.reference import ArrayTokenizer


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


def open_judged(source: Path, options: LoadOptions, checkpoint: Path | None, closing: ExitStack) -> Judged:
    """Open a checkpoint's or a bundle's folder; `checkpoint` is the one that the bundle was made of."""
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.manifest import MANIFEST_FILE

    if (source / MANIFEST_FILE).exists():
        return _open_bundle(source, options, checkpoint, closing)
    if checkpoint is not None:
        raise UsageError("--checkpoint", got=f"{source}, which is no bundle", expected="a bundle to be evaluated")
    return _open_checkpoint(source, options)


def _open_bundle(source: Path, options: LoadOptions, checkpoint: Path | None, closing: ExitStack) -> Judged:
    from vqrae.export.tokenizers.vqrae import reference_checkpoint
    from vqrae.runtimes.bundle import Bundle
    from vqrae.runtimes.tokenizer import Tokenizer

    bundle = Bundle.open(source, public_key=options.public_key)
    model = None
    if checkpoint is not None:
        model = reference_checkpoint(bundle.manifest, str(checkpoint), option="--checkpoint").model
    tokenizer = closing.enter_context(Tokenizer.from_bundle(bundle, options))
    digest = bundle.manifest.checkpoint.weights_sha256
    return Judged(tokenizer, tokenizer.image_size, tokenizer.grid, tokenizer.codebook_size, digest, model)


def _open_checkpoint(source: Path, options: LoadOptions) -> Judged:
    """In PyTorch on the CPU."""
    import torch

    from vqrae.checkpoint import WEIGHTS_FILE, from_pretrained
    from vqrae.model.reference import ReferenceTokenizer
    from vqrae.runtimes.bundle import sha256_file
    from vqrae.runtimes.errors import UsageError

    if options.device not in (None, "cpu"):
        raise UsageError("--device", got=options.device, expected="cpu, where checkpoints are evaluated")
    for field in fields(options):
        if field.name not in ("device", "threads", "trusted") and getattr(options, field.name) != field.default:
            got, option = f"{source}, a checkpoint", field.name.replace("_", "-")
            raise UsageError(f"--{option}", got=got, expected="a bundle's folder, which alone has a use for it")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = from_pretrained(source)
    codes, digest = model.config.quantizer.codebook_size, sha256_file(source / WEIGHTS_FILE)
    return Judged(ReferenceTokenizer(model), model.size, model.grid, codes, digest, model)
