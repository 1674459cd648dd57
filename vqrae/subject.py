"""What a folder names that is judged or painted with: a checkpoint, in PyTorch, or a bundle, through its runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch

from vqrae.checkpoint import WEIGHTS_FILE, Checkpoint, from_pretrained, open_checkpoint
from vqrae.model import VQRAE
from vqrae.model.reference import ArrayTokenizer, ReferenceTokenizer
from vqrae.runtimes.bundle import Bundle, sha256_file
from vqrae.runtimes.errors import CheckpointError, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import MANIFEST_FILE, Manifest
from vqrae.runtimes.tokenizer import Tokenizer

_OF_CHECKPOINTS = ("device", "threads", "trusted")
"""Options of loading that a checkpoint has no quarrel with."""


class Subject(NamedTuple):
    """A tokenizer, deployed or not."""

    source: Path
    """Its folder."""
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


@contextmanager
def open_subject(source: Path, options: LoadOptions, checkpoint: Path | None = None) -> Iterator[Subject]:
    """Open a checkpoint's or a bundle's folder for the length of the block.

    Args:
        source: the folder.
        options: how a bundle is loaded; of a checkpoint, the device is the CPU.
        checkpoint: the one that the bundle was made of, whose hash must match; None where it is not at hand.

    Raises:
        UsageError: `checkpoint` of a checkpoint, or an option that only a bundle has a use for.
        CheckpointError: it is damaged, or another one.
        BundleError: it is invalid, or not signed as it must be.
        RuntimeUnavailable: its runtime is not installed.
    """
    if (source / MANIFEST_FILE).exists():
        bundle = Bundle.open(source, public_key=options.public_key)
        manifest, model = bundle.manifest, None
        if checkpoint is not None:
            model = reference_checkpoint(manifest, str(checkpoint), option="--checkpoint").model
        digest = manifest.checkpoint.weights_sha256
        with Tokenizer.from_bundle(bundle, options) as it:
            yield Subject(source, it, it.image_size, it.grid, it.codebook_size, digest, model)
        return
    if checkpoint is not None:
        raise UsageError("--checkpoint", got=f"{source}, which is no bundle", expected="a bundle to be evaluated")
    yield _of_checkpoint(source, options)


def _of_checkpoint(source: Path, options: LoadOptions) -> Subject:
    """In PyTorch on the CPU."""
    if options.device not in (None, "cpu"):
        raise UsageError("--device", got=options.device, expected="cpu, where checkpoints are evaluated")
    for field in fields(options):
        if field.name not in _OF_CHECKPOINTS and getattr(options, field.name) != field.default:
            got, option = f"{source}, a checkpoint", field.name.replace("_", "-")
            raise UsageError(f"--{option}", got=got, expected="a bundle's folder, which alone has a use for it")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = from_pretrained(source)
    codes, digest = model.config.quantizer.codebook_size, sha256_file(source / WEIGHTS_FILE)
    return Subject(source, ReferenceTokenizer(model), model.size, model.grid, codes, digest, model)


def reference_source(manifest: Manifest, source: str | None, option: str = "--reference") -> str:
    """Where the checkpoint that a bundle was made of lies, its weights' hash compared.

    Args:
        manifest: names the checkpoint.
        source: where it lies now; None looks where it lay when the bundle was made.
        option: how the command line lets its user name the place.

    Raises:
        UsageError: there is nothing at that place.
        CheckpointError: what is there is another checkpoint.
    """
    named = manifest.checkpoint
    place = source or named.source
    if named.random_weights and source is None:
        return place  # a preset's name: the weights are made anew from their seed
    weights = Path(place) / WEIGHTS_FILE
    if not weights.is_file():
        remedy = f"pass {option} CHECKPOINT"
        raise UsageError(f"reference {place}", got="no checkpoint's folder", expected=named.name, remedy=remedy)
    _compare_hashes(place, sha256_file(weights), named.name, named.weights_sha256)
    return place


def reference_checkpoint(manifest: Manifest, source: str | None, option: str = "--reference") -> Checkpoint:
    """Open the checkpoint that a bundle was made of, its model at the bundle's image size.

    Arguments and errors as for `reference_source`.
    """
    size = (manifest.preprocessing.height, manifest.preprocessing.width)
    checkpoint = open_checkpoint(reference_source(manifest, source, option), size)
    named, found = manifest.checkpoint, checkpoint.identity
    _compare_hashes(found.source, found.weights_sha256, named.name, named.weights_sha256)
    _compare_hashes(found.source, found.config_sha256, named.name, named.config_sha256)
    return checkpoint


def _compare_hashes(place: str, got: str, name: str, expected: str) -> None:
    if got != expected:
        raise CheckpointError(
            f"reference {place}",
            got=f"SHA-256 {got[:12]}…",
            expected=f"{expected[:12]}… of {name}",
            remedy="give the checkpoint that the bundle was made of",
        )
