"""What parity compares: a trained tokenizer's sample in FP32, and a deployed one's of the same images."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from vqrae.export.deployable import ReferenceModel
from vqrae.runtimes.code_space import CodeSpace, as_indices, by_token
from vqrae.runtimes.parity import Reference, Sample
from vqrae.runtimes.tokenizer import Tokenizer

WHOLE = ("encode", "decode")


def reference_from_model(
    model: ReferenceModel, images: NDArray[np.uint8], graphs: Collection[str] = WHOLE
) -> Reference:
    """Run a trained tokenizer on images uint8 (B, H, W, 3) and keep what parity needs to know of it.

    Where none of the graphs encodes, decoders are compared on as many grids of codes, drawn by a seed.
    """
    tokens, features, runners_up, space = model.tokens, None, None, None
    if "encode" in graphs:
        space = model.space
        indices, features = model.encode(images)
        runners_up = None if space is None else _runners_up(space, indices, features)
    else:
        shape = (len(images), *tokens.shape)
        indices = np.random.default_rng(0).integers(0, tokens.codebook_size, shape, dtype=np.int32)
    decoded = model.decode(indices) if "decode" in graphs else None
    return Reference(
        images=images,
        indices=indices,
        features=features,
        decoded=decoded,
        reconstructed=decoded if "encode" in graphs else None,
        runners_up=runners_up,
        space=space,
    )


def _runners_up(space: CodeSpace, indices: NDArray[np.int32], features: NDArray[np.float32]) -> NDArray[np.int32]:
    """The second-best code of each token at each level; shaped as the indices."""
    codes_Mg = by_token(indices)
    best_two = space.best_two(features.reshape(-1, features.shape[-1]), codes_Mg)
    # The runner-up must be another code than the chosen one, in whichever order a tie came out.
    runners_up = np.where(best_two[..., 0] == codes_Mg, best_two[..., 1], best_two[..., 0])
    return as_indices(runners_up, indices.shape)


def sample_from_tokenizer(tokenizer: Tokenizer, reference: Reference) -> Sample:
    """Run a deployed tokenizer on the reference's images, and its decoder on the reference's indices; what it has."""
    graphs, indices, features = tokenizer.manifest.graphs, None, None
    if "encode" in graphs:
        indices, told = tokenizer.encode(reference.images)
        features = told if told.shape[-1] else None
    decodes = "decode" in graphs
    return Sample(
        indices=indices,
        features=features,
        decoded=tokenizer.decode(reference.indices) if decodes else None,
        reconstructed=tokenizer.decode(indices) if decodes and indices is not None else None,
    )
