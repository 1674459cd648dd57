"""Placing the codes among the features (k-means), where a configuration asks for it."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans

from vqrae.model import VQRAE
from vqrae.training.data.batches import TrainingImages
from vqrae.training.processes import Processes

INIT_TOKENS_PER_CODE = 16
"""Features that are gathered for each code that is placed among them."""
INIT_ITERATIONS = 10
"""Rounds of k-means, from codes drawn among the features."""


@torch.inference_mode()
def place_codes(model: VQRAE, images: TrainingImages, first_step: int, processes: Processes, seed: int) -> None:
    """Make the codes the centroids of the projected features of some batches, and the quantizer's map the identity.

    SimVQ moves all codes together, so how they lie relative to each other is decided here. All processes call it: each
    projects its share, and all get the first one's centroids.

    Args:
        model: changed in place, and moved to the processes' device.
        images: where the batches come from.
        first_step: names the first batch; past a stage's last step lie images that it does not train on.
        processes: those that share the work.
        seed: of the features that k-means starts from.
    """
    size = model.config.quantizer.codebook_size
    model.to(processes.device)
    rows = processes.share.rows(images.batch_size)
    batches: list[np.ndarray] = []
    while sum(len(batch) for batch in batches) < INIT_TOKENS_PER_CODE * size:
        pixels = images.pixels(first_step + len(batches), rows).to(processes.device)
        projected = model.in_projection(model.encoder(pixels)).flatten(0, 1).cpu().numpy()
        batches.append(np.concatenate(processes.gathered(projected)))
    clusters = KMeans(size, init="random", n_init=1, max_iter=INIT_ITERATIONS, random_state=seed)
    clusters.fit(np.concatenate(batches))
    model.quantizer.set_codes(torch.from_numpy(processes.gathered(clusters.cluster_centers_)[0]))
