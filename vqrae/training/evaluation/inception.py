"""rFID's feature space: torch-fidelity's port of the Inception-v3 that FID is defined with (Heusel et al. 2017).

Only the network and its weights are taken from there, so that images can come as a stream: torch-fidelity itself keeps
the features of all images.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import RuntimeUnavailable

STATED_DIGITS = Path(URL_INCEPTION_V3).stem.rsplit("-", 1)[1]
"""First digits of the weights' SHA-256, which their name states, as torch.hub's file names do."""


class Inception:
    """2048 pooled features of Inception-v3 (TensorFlow's 2015 weights), as `feature_space.FeatureSpace`."""

    name = "Inception-v3 of torch-fidelity, 2048 wide"

    def __init__(self) -> None:
        """Read the weights from where torch keeps downloads; nothing is downloaded here.

        Raises:
            RuntimeUnavailable: they are not there, or other ones are.
        """
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(_checked(path))
        )

    @torch.inference_mode()
    def pooled(self, images: NDArray[np.uint8], /) -> NDArray[np.floating]:
        """Images uint8 (B, H, W, 3) -> float32 (B, 2048)."""
        (features,) = self._network(torch.tensor(images).permute(0, 3, 1, 2))
        return features.numpy()


def _checked(path: Path) -> Path:
    """The weights' file, once it is seen to be the one that its name states, and to hold tensors only.

    torch-fidelity unpickles it without restrictions, so it is read once before, with them.
    """
    try:
        if not sha256_file(path).startswith(STATED_DIGITS):
            raise ValueError("another file")
        torch.load(path, weights_only=True)
    except (OSError, ValueError, pickle.UnpicklingError, RuntimeError) as error:
        reasons = {FileNotFoundError: "no such file", pickle.UnpicklingError: "a pickle of more than tensors"}
        got = reasons.get(type(error), str(error))
        expected = f"Inception's weights, SHA-256 {STATED_DIGITS}…"
        remedy = f"download {URL_INCEPTION_V3} to there"
        raise RuntimeUnavailable(str(path), got=got, expected=expected, remedy=remedy) from error
    return path
