"""Two bundles for the attacks on sealed bytes: the same files by name and size, other weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from vqrae.checkpoint import Checkpoint, open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.runtimes.errors import unknown_name

GOOD, EVIL = "good", "evil"
RECIPES = {
    "onnx": ("assets/vqrae-tiny", "onnx"),
    "openvino": ("assets/vqrae-tiny", "openvino"),
    "coreml": ("assets/vqrae-tiny", "coreml"),
    "base-onnx": ("base", "onnx"),
    "base-openvino": ("base", "openvino"),
}
"""What can be made -> a checkpoint (below the checkout) or a preset, and a format."""
NOISE = 0.1
"""Each weight of a matrix is multiplied by 1 + this much of a normal variable. Vectors stay: in a fresh model they are
ones and zeros, which an export shares, and the files' sizes shall agree."""
IMAGES = 4


def make_twins(recipe: str, folder: Path, report: Callable[[str], None]) -> tuple[Path, Path]:
    """Export a checkpoint at FP32, and the same one with other weights, as FOLDER/good and FOLDER/evil.

    Args:
        recipe: one of `RECIPES`.
        folder: where they come to lie.
        report: told of each step as it begins.

    Raises:
        UsageError: no such recipe.
    """
    if recipe not in RECIPES:
        raise unknown_name("--make", recipe, RECIPES)
    source, format_name = RECIPES[recipe]
    checkpoint = open_checkpoint(source)
    good = _exported(checkpoint, format_name, folder / GOOD, report)
    with tempfile.TemporaryDirectory(prefix="vqrae-evil-") as written:
        save_pretrained(_perturbed(checkpoint).model, Path(written) / EVIL)
        evil = _exported(open_checkpoint(str(Path(written) / EVIL)), format_name, folder / EVIL, report)
    return good, evil


def _perturbed(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, whose weights were changed in place."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1 + NOISE * torch.randn(parameter.shape, generator=noise))
    return checkpoint


def _exported(checkpoint: Checkpoint, format_name: str, path: Path, report: Callable[[str], None]) -> Path:
    images = parity_images(None, checkpoint.model.size, IMAGES)
    with BundleBuilder(VqraeTokenizer(checkpoint), images, lambda step: report(f"{path.name}: {step}")) as builder:
        row = builder.build(target(format_name), path.parent)
    return Path(row.bundle).rename(path)
