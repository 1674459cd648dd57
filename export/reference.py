"""What parity compares: the unfolded PyTorch model's sample in FP32, and a deployed tokenizer's of the same images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vqrae.model import VQRAE
from vqrae.model.reference import ReferenceTokenizer
from vqrae.model.search import top2
from vqrae.runtimes.parity import CodeSpace, Reference, Sample
from vqrae.runtimes.tokenizer import Tokenizer


@torch.inference_mode()
def reference_from_model(model: VQRAE, images: NDArray[np.uint8]) -> Reference:
    """Run the PyTorch model on images uint8 (B, H, W, 3) and keep what parity needs to know of it."""
    tokenizer = ReferenceTokenizer(model)
    indices, features = tokenizer.encode(images)
    decoded = tokenizer.decode(indices)
    codes_KE = tokenizer.codes_KE
    projection = model.in_projection
    best_two = top2(projection(torch.from_numpy(features)).flatten(0, 1), codes_KE).numpy().astype(np.int32)
    # The runner-up must be another code than the chosen one, in whichever order a tie came out.
    runners_up = np.where(best_two[:, 0] == indices.ravel(), best_two[:, 1], best_two[:, 0])
    return Reference(
        images=images,
        indices=indices,
        features=features,
        decoded=decoded,
        reconstructed=decoded,
        runners_up=runners_up.reshape(indices.shape),
        space=CodeSpace(weight_EC=projection.weight.numpy(), bias_E=projection.bias.numpy(), codes_KE=codes_KE.numpy()),
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
