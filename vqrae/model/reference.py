"""The PyTorch model behind the signature of a deployed tokenizer: arrays in, arrays out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vqrae.model import VQRAE

BATCH_SIZE = 8


class ArrayTokenizer(Protocol):
    """What evaluation needs of a tokenizer, deployed or not."""

    def encode(self, images: NDArray[np.uint8], /) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Images uint8 (B, H, W, 3) -> indices int32 (B, h, w), features float32 (B, h·w, C)."""
        ...

    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        """Indices int32 (B, h, w) -> images uint8 (B, H, W, 3)."""
        ...


class ReferenceTokenizer:
    """A VQRAE model as an `ArrayTokenizer`, in FP32 and a few images at a time."""

    def __init__(self, model: VQRAE) -> None:
        self.model = model.eval()
        with torch.inference_mode():
            self.codes_KE = model.quantizer.codes()

    def encode(self, images: NDArray[np.uint8], /) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ArrayTokenizer`."""
        parts = [self.model.encode_images(chunk, self.codes_KE) for chunk in torch.tensor(images).split(BATCH_SIZE)]
        indices, features = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
        return indices, features

    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        """See `ArrayTokenizer`."""
        return torch.cat([self.model.decode_indices(c) for c in torch.tensor(indices).split(BATCH_SIZE)]).numpy()
