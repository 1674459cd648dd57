"""rFID's feature space: torch-fidelity's port of the Inception-v3 that FID is defined with (Heusel et al. 2017).

Only the network and its weights are taken from there, so that images can come as a stream: torch-fidelity itself keeps
the features of all images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import RuntimeUnavailable

WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the weights that make the distance an rFID. They are a pickle, so no other file is opened."""


class Inception:
    """2048 pooled features of Inception-v3 (TensorFlow's 2015 weights), as `feature_space.FeatureSpace`."""

    name = "Inception-v3 of torch-fidelity, 2048 wide"

    def __init__(self) -> None:
        """Read the weights from where torch keeps downloads; nothing is downloaded here.

        Raises:
            RuntimeUnavailable: they are not there, or other ones are.
        """
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
        got = "no such file" if not path.is_file() else "another file"
        if not path.is_file() or sha256_file(path) != WEIGHTS_SHA256:
            remedy = f"download {URL_INCEPTION_V3} to there"
            expected = f"Inception's weights, SHA-256 {WEIGHTS_SHA256[:12]}…"
            raise RuntimeUnavailable(str(path), got=got, expected=expected, remedy=remedy)
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )

    @torch.inference_mode()
    def pooled(self, images: NDArray[np.uint8], /) -> NDArray[np.floating]:
        """Images uint8 (B, H, W, 3) -> float32 (B, 2048)."""
        (features,) = self._network(torch.tensor(images).permute(0, 3, 1, 2))
        return features.numpy()
