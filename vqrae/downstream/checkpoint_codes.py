"""A checkpoint's codes, as a painter learns them: their vectors, and the codes of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vqrae.checkpoint import WEIGHTS_FILE, from_pretrained
from vqrae.downstream.conversations import Conversations
from vqrae.downstream.lessons import PaintedData
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.staging import staged_file

CODES_FILE = "codes.npy"
CHUNK_IMAGES = 64


class CheckpointCodes:
    """The codes of one tokenizer."""

    def __init__(self, folder: Path) -> None:
        """Errors as for `from_pretrained`."""
        model = from_pretrained(folder)
        self.size, self.grid = model.size, model.grid
        self.weights_sha256 = sha256_file(folder / WEIGHTS_FILE)
        with torch.inference_mode():
            self.codes_KE = model.quantizer.codes()
        self._tokenizer = ReferenceTokenizer(model)

    def painted(self, data: Conversations, path: Path) -> PaintedData:
        """The codes of all images, kept in a file so that they are computed once, and the captions."""
        if not path.exists():
            codes = self._codes(data)
            with staged_file(path, size=codes.nbytes) as staging, staging.open("wb") as file:
                np.save(file, codes, allow_pickle=False)
        return PaintedData(np.load(path, allow_pickle=False), [data.caption(number) for number in range(len(data))])

    def _codes(self, data: Conversations) -> NDArray[np.int32]:
        chunks = []
        for start in range(0, len(data), CHUNK_IMAGES):
            images = [data.image(number) for number in range(start, min(start + CHUNK_IMAGES, len(data)))]
            indices, _ = self._tokenizer.encode(np.stack(images))
            chunks.append(indices.reshape(len(images), -1))
        return np.concatenate(chunks)
