"""Linear probe: what a linear classifier can read from the mean of the continuous features.

It measures the semantics that stage 2 must keep, on labelled scenes of a held-out seed over held-out photographs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vqrae.reference import ArrayTokenizer
from vqrae.training.data.scenes import ATTRIBUTES, SceneBatch, Scenes

CHUNK_IMAGES = 64
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
    return _score(_pooled(tokenizer, train.images), train, _pooled(tokenizer, test.images), test)


def _pooled(tokenizer: ArrayTokenizer, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean over tokens of the continuous features, float32 (B, C), without holding all features at once."""
    chunks = (images[start : start + CHUNK_IMAGES] for start in range(0, len(images), CHUNK_IMAGES))
    return np.concatenate([tokenizer.encode(chunk)[1].mean(1) for chunk in chunks])


def _score(
    train_BC: NDArray[np.float32], train: SceneBatch, test_BC: NDArray[np.float32], test: SceneBatch
) -> dict[str, float]:
    accuracy = {}
    for name in ATTRIBUTES:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        classifier.fit(train_BC, train.labels[name])
        accuracy[name] = float(classifier.score(test_BC, test.labels[name]))
    accuracy["mean"] = float(np.mean(list(accuracy.values())))
    return accuracy
