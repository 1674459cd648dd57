"""The same tokenizer for images of another size, square or not: weights shared, position embeddings resampled."""

from __future__ import annotations

from dataclasses import replace

import torch

from vqrae.checkpoint import Checkpoint, open_checkpoint, open_config
from vqrae.model import VQRAE
from vqrae.model.layers import resampled_positions
from vqrae.runtimes.errors import UsageError

MOST_SIDE = 2**14
"""Of an image, in pixels."""


def check_size(size: tuple[int, int], patch_size: int) -> None:
    """Refuse an image size (H, W) that patches do not tile.

    Raises:
        UsageError: a side is not a positive multiple of the patch's.
    """
    for name, side in zip(("height", "width"), size, strict=True):
        if side > MOST_SIDE:
            raise UsageError(f"image {name}", got=str(side), expected=f"at most {MOST_SIDE} pixels")
        if side < patch_size or side % patch_size:
            below = side // patch_size * patch_size
            near = f"{below} or {below + patch_size}" if below else str(patch_size)
            expected = f"a multiple of the patch size, {patch_size}"
            raise UsageError(f"image {name}", got=str(side), expected=expected, remedy=f"the nearest: {near}")


def resized(model: VQRAE, size: tuple[int, int]) -> VQRAE:
    """The tokenizer for images of (H, W) pixels; the model itself if that is its size already.

    Encoder, quantizer and blocks are the same objects. The encoder interpolates its position embeddings when it sees
    the new size; the decoder's are resampled here, by the same rule.

    Raises:
        UsageError: a side is not a positive multiple of the patch size.
    """
    if size == model.size:
        return model
    check_size(size, model.config.decoder.patch_size)
    with torch.device("meta"):  # a shell, whose parts are replaced below
        other = VQRAE(model.config, encoder=model.encoder, size=size)
    other.in_projection, other.quantizer, other.out_projection = (
        model.in_projection,
        model.quantizer,
        model.out_projection,
    )
    state = model.decoder.state_dict()
    state["position_embedding"] = resampled_positions(state["position_embedding"], other.grid)
    other.decoder.load_state_dict(state, assign=True)
    return other.train(model.training)


def open_at_size(source: str, size: tuple[int, int] | None) -> Checkpoint:
    """Open a checkpoint with its model at another size (H, W); None leaves the trained one. Errors as for its parts."""
    if size is not None:
        check_size(size, open_config(source).decoder.patch_size)  # before the weights, which take long
    checkpoint = open_checkpoint(source)
    return checkpoint if size is None else replace(checkpoint, model=resized(checkpoint.model, size))
