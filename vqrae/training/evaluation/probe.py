"""Linear probe: what a linear classifier can read from the mean of the continuous features.

It measures the semantics that stage 2 must keep, on labelled scenes of a held-out seed over held-out photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vqrae.model.reference import ArrayTokenizer
from vqrae.training.data.scenes import Scenes

CHUNK_IMAGES = 64
Classes = Mapping[str, NDArray[np.integer[Any]]]
"""Attribute -> class of each image (B,)."""
TRAIN_COUNT, TEST_COUNT = 600, 300
TRAIN_SEED, TEST_SEED = 1_000_001, 1_000_002


def probe_accuracy(
    tokenizer: ArrayTokenizer,
    train_photographs: Sequence[Image.Image],
    held_out_photographs: Sequence[Image.Image],
    size: int,
    *,
    train_count: int = TRAIN_COUNT,
    test_count: int = TEST_COUNT,
) -> dict[str, float]:
    """Accuracy in [0, 1] per scene attribute, and their `mean`; chance is 1/8, 1/8, 1/9 and 1/4."""
    train = Scenes(photographs=train_photographs, size=size).batch(train_count, [TRAIN_SEED])
    test = Scenes(photographs=held_out_photographs, size=size).batch(test_count, [TEST_SEED])
    probe = LinearProbe(pooled_features(tokenizer, train.images), train.labels)
    return probe.accuracy(pooled_features(tokenizer, test.images), test.labels)


class LinearProbe:
    """A linear classifier of one vector per image for each attribute."""

    def __init__(self, vectors_BC: NDArray[np.floating[Any]], labels: Classes) -> None:
        """Fit them."""
        self._classifiers = {
            name: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(vectors_BC, classes)
            for name, classes in labels.items()
        }

    def predict(self, vectors_BC: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.int64]]:
        """Attribute -> class of each vector (B,)."""
        return {name: classifier.predict(vectors_BC) for name, classifier in self._classifiers.items()}

    def accuracy(self, vectors_BC: NDArray[np.floating[Any]], labels: Classes) -> dict[str, float]:
        """Share of right classes per attribute, and their `mean`."""
        found = self.predict(vectors_BC)
        return with_mean({name: float((found[name] == classes).mean()) for name, classes in labels.items()})


def with_mean(accuracy: Mapping[str, float]) -> dict[str, float]:
    """Accuracies per attribute, and beside them their `mean`."""
    return {**accuracy, "mean": float(np.mean(list(accuracy.values())))}


def pooled_features(tokenizer: ArrayTokenizer, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean over tokens of the continuous features, float32 (B, C), without holding all features at once."""
    chunks = (images[start : start + CHUNK_IMAGES] for start in range(0, len(images), CHUNK_IMAGES))
    return np.concatenate([tokenizer.encode(chunk)[1].mean(1) for chunk in chunks])
