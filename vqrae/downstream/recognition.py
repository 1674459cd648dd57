"""What can be told of an image from one vector: linear probe and nearest neighbours, on scenes of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from vqrae.model import VQRAE
from vqrae.training.data.scenes import SceneBatch
from vqrae.training.evaluation.probe import CHUNK_IMAGES, Classes, LinearProbe, with_mean

NEIGHBORS = 20
Pooled = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Images uint8 (B, H, W, 3) -> vectors (B, C)."""


class Recognizer:
    """A linear probe on the vectors of one network, fitted on scenes."""

    def __init__(self, pooled: Pooled, scenes: SceneBatch) -> None:
        self.pooled = pooled
        self.probe = LinearProbe(pooled(scenes.images), scenes.labels)

    def recognized(self, images: NDArray[np.uint8], asked: Classes) -> dict[str, float]:
        """Share of images recognized as asked: of each attribute, their `mean`, and of `all` attributes at once."""
        found = self.probe.predict(self.pooled(images))
        right = {name: found[name] == classes for name, classes in asked.items()}
        everything = np.logical_and.reduce(list(right.values()))
        shares = with_mean({name: float(hits.mean()) for name, hits in right.items()})
        return {**shares, "all": float(everything.mean())}


def neighbors_accuracy(
    train_BC: NDArray[np.floating[Any]], train: Classes, test_BC: NDArray[np.floating[Any]], test: Classes
) -> dict[str, float]:
    """Share of right classes by the vote of the nearest `NEIGHBORS` in cosine distance, and their `mean`."""
    accuracy = {}
    for name, classes in train.items():
        voters = KNeighborsClassifier(min(NEIGHBORS, len(train_BC)), metric="cosine").fit(train_BC, classes)
        accuracy[name] = float(voters.score(test_BC, test[name]))
    return with_mean(accuracy)


def pooled_quantized(model: VQRAE, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean over tokens of what the decoder is given: the codes, projected out; float32 (B, C)."""
    parts = []
    with torch.inference_mode():
        codes_KE = model.quantizer.codes()
        for chunk in torch.from_numpy(images).split(CHUNK_IMAGES):
            indices, _ = model.encode_images(chunk, codes_KE)
            vectors = model.quantizer.lookup(indices.flatten(1).long())
            parts.append(model.out_projection(vectors).mean(1).numpy())
    return np.concatenate(parts)


def stacked(labels: list[dict[str, int]]) -> dict[str, NDArray[np.int64]]:
    """Labels of several scenes as classes per attribute."""
    names: Mapping[str, int] = labels[0]
    return {name: np.array([one[name] for one in labels], np.int64) for name in names}
