"""How good a tokenizer is, in PyTorch and deployed alike: reconstruction, codebook health, semantics.

Usage alone is no health: a codebook can be used to 100 % and yet say almost everything with a few codes, so perplexity
and effective rank stand beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from vqrae.model import VQRAE
from vqrae.reference import ArrayTokenizer
from vqrae.runtimes.parity import mean_psnr_db, mean_ssim

CHUNK_IMAGES = 64


class EvalReport(BaseModel):
    """What `vqrae eval` says of one tokenizer."""

    model_config = ConfigDict(frozen=True)

    source: str
    images: int
    """Images evaluated."""
    psnr_db: float
    """Mean over images of the reconstruction's PSNR."""
    ssim: float
    """Mean over images of the reconstruction's SSIM."""
    tokens: int
    """Indices counted for the two figures below."""
    codebook_usage: float
    """Share of codes chosen at least once, in [0, 1]; bounded by `tokens` over the codebook's size."""
    perplexity: float
    """exp of the entropy of the choice: the number of equally likely codes that would be as varied."""
    effective_rank: float | None = None
    """exp of the entropy of the effective codes' normalized singular values; checkpoints only."""
    feature_norm: float | None = None
    """Mean Euclidean norm of the projected features; checkpoints only."""
    code_norm: float | None = None
    """Mean Euclidean norm of the effective codes; checkpoints only."""
    probe: dict[str, float] | None = None
    """Linear-probe accuracy per scene attribute and their mean, in [0, 1]; where it was asked for."""


def evaluate(tokenizer: ArrayTokenizer, codebook_size: int, images: NDArray[np.uint8], source: str) -> EvalReport:
    """Reconstruct images uint8 (B, H, W, 3) and count the codes that they use."""
    counts = np.zeros(codebook_size, np.int64)
    reconstructed = np.empty_like(images)
    for start in range(0, len(images), CHUNK_IMAGES):  # never the features of all images at once
        rows = slice(start, start + CHUNK_IMAGES)
        indices, _ = tokenizer.encode(images[rows])
        reconstructed[rows] = tokenizer.decode(indices)
        counts += np.bincount(indices.ravel(), minlength=codebook_size)
    return EvalReport(
        source=source,
        images=len(images),
        psnr_db=mean_psnr_db(images, reconstructed),
        ssim=mean_ssim(images, reconstructed),
        tokens=int(counts.sum()),
        codebook_usage=float((counts > 0).mean()),
        perplexity=exp_entropy(counts),
    )


def codebook_figures(model: VQRAE, features_BNC: NDArray[np.float32]) -> dict[str, float]:
    """The fields of `EvalReport` that only a checkpoint can tell, given the features of some images."""
    codes_KE = model.quantizer.codes().detach().numpy()
    projection = model.in_projection
    projected = features_BNC @ projection.weight.detach().numpy().T + projection.bias.detach().numpy()
    return {
        "effective_rank": exp_entropy(np.linalg.svd(codes_KE - codes_KE.mean(0), compute_uv=False)),
        "feature_norm": float(np.linalg.norm(projected, axis=-1).mean()),
        "code_norm": float(np.linalg.norm(codes_KE, axis=-1).mean()),
    }


def exp_entropy(weights: NDArray[np.number]) -> float:
    """Exponential of the entropy of weights ≥ 0 over their sum: perplexity of counts, effective rank of a spectrum."""
    shares = weights[weights > 0] / weights.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
