"""Fixed feature spaces, in which originals and reconstructions are compared as sets."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from vqrae.checkpoint import CONFIG_FILE, MODEL_TYPE, from_pretrained
from vqrae.model.encoder import Encoder
from vqrae.model.layers import pixels_from_uint8
from vqrae.model.reference import BATCH_SIZE
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.json_text import parse_json


class FeatureSpace(Protocol):
    """One vector per image."""

    name: str
    """Says which space it is, for the report."""

    def pooled(self, images: NDArray[np.uint8], /) -> NDArray[np.floating]:
        """Images uint8 (B, H, W, 3) -> features (B, C), pooled over each image."""
        ...


class Teacher:
    """The mean over tokens of an encoder's features, in FP32.

    Pooled, as rFID pools: images are independent of each other, tokens of one image are not, and would swell the count
    without making the covariance any surer.

    An image of another size than the encoder's is resampled to its square, whole (bicubic with antialias), as
    Inception's is; patches may be of any size, since they are pooled.
    """

    def __init__(self, encoder: Encoder, source: str, size: tuple[int, int]) -> None:
        """`size` (H, W) in pixels is that of the images to come; `source` is where the encoder is from."""
        self.encoder = encoder.eval()
        side = encoder.shape.image_size[0]
        self.resample_to = None if size == (side, side) else (side, side)
        resized = "" if self.resample_to is None else f", images resized from {size[0]}x{size[1]} to {side}x{side}"
        self.name = f"encoder of {source}, {encoder.shape.width} wide, mean over tokens{resized}"

    @torch.inference_mode()
    def pooled(self, images: NDArray[np.uint8], /) -> NDArray[np.floating]:
        """See `FeatureSpace`; float64."""
        parts = []
        for chunk in torch.tensor(images).split(BATCH_SIZE):
            pixels = pixels_from_uint8(chunk)
            if self.resample_to is not None:
                pixels = F.interpolate(pixels, self.resample_to, mode="bicubic", antialias=True).clamp(-1, 1)
            parts.append(self.encoder(pixels).double().mean(1))
        return torch.cat(parts).numpy()


def open_teacher(source: str, size: tuple[int, int]) -> Teacher:
    """The encoder of a vqrae checkpoint's folder, or a Hugging Face encoder by name or folder, for images of `size`.

    Raises:
        CheckpointError: it cannot be read, or is of no family that is supported.
    """
    return Teacher(open_encoder(source), source, size)


def open_encoder(source: str) -> Encoder:
    """The encoder of a vqrae checkpoint's folder, or a Hugging Face encoder by name or folder; errors as above."""
    return from_pretrained(source).encoder if _is_tokenizer(Path(source)) else Encoder.from_pretrained(source)


def open_inception() -> FeatureSpace:
    """The feature space of rFID.

    Raises:
        RuntimeUnavailable: torch-fidelity is not installed or does not load, or its weights are not there.
    """
    try:
        from vqrae.training.evaluation.inception import Inception
    except (ImportError, OSError, RuntimeError) as error:  # a torchvision that is not for this torch raises the latter
        remedy = "install it with `pip install 'vqrae[fid]'`, torchvision in the version and build for your torch"
        raise RuntimeUnavailable("torch-fidelity", got=f"not loadable ({error})", remedy=remedy) from error
    return Inception()


def _is_tokenizer(folder: Path) -> bool:
    """Whether it is a checkpoint of ours; what is no JSON at all is left to the reader of the others to refuse."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        values = parse_json(path.read_bytes())
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("model_type") == MODEL_TYPE
