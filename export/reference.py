"""What parity compares: a trained tokenizer's sample in FP32, and a deployed one's of the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqrae.export.deployable import ReferenceModel
from vqrae.runtimes.parity import Reference, Sample
from vqrae.runtimes.tokenizer import Tokenizer


def reference_from_model(model: ReferenceModel, images: NDArray[np.uint8]) -> Reference:
    """Run a trained tokenizer on images uint8 (B, H, W, 3) and keep what parity needs to know of it."""
    indices, features = model.encode(images)
    decoded = model.decode(indices)
    best_two = model.best_two(features)
    # The runner-up must be another code than the chosen one, in whichever order a tie came out.
    runners_up = np.where(best_two[:, 0] == indices.ravel(), best_two[:, 1], best_two[:, 0])
    return Reference(
        images=images,
        indices=indices,
        features=features,
        decoded=decoded,
        reconstructed=decoded,
        runners_up=runners_up.reshape(indices.shape),
        space=model.space,
    )


def sample_from_tokenizer(tokenizer: Tokenizer, reference: Reference) -> Sample:
    """Run a deployed tokenizer on the reference's images, and its decoder on the reference's indices."""
    indices, features = tokenizer.encode(reference.images)
    return Sample(
        indices=indices,
        features=features,
        decoded=tokenizer.decode(reference.indices),
        reconstructed=tokenizer.decode(indices),
    )
