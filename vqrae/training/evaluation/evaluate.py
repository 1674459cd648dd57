"""How good a tokenizer is, in PyTorch and deployed alike: reconstruction, codebook health, semantics.

Usage alone is no health: a codebook can be used to 100 % and yet say almost everything with a few codes, so perplexity
and effective rank stand beside it. What each figure means: docs/explanation/evaluation.md.

Images come in chunks and none is kept: beside the networks, memory holds one chunk, two numbers per image, and the
covariances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from vqrae.images.photographs import HELD_OUT, TRAIN, photographs
from vqrae.model import VQRAE
from vqrae.model.reference import ArrayTokenizer
from vqrae.runtimes.errors import ImageError, RuntimeUnavailable
from vqrae.runtimes.parity import mean_ssim, psnr_db
from vqrae.subject import Subject
from vqrae.training.evaluation.feature_space import FeatureSpace, open_inception
from vqrae.training.evaluation.frechet import FrechetMeter
from vqrae.training.evaluation.image_stream import CHUNK_IMAGES, ImageStream
from vqrae.training.evaluation.probe import probe_accuracy

PERCENTILES = (5, 50, 95)
_NO_CODES = (
    "effective_rank, feature_norm, code_norm: a bundle's graphs, its parts too, hold no code as it is, only scores and "
    "ready features made of it; pass --checkpoint, the one that it was made of"
)


class EvalReport(BaseModel):
    """What `vqrae eval` says of one tokenizer."""

    model_config = ConfigDict(frozen=True)

    source: str
    images: int
    """Images evaluated."""
    psnr_db: float
    """Mean over images of the reconstruction's PSNR."""
    psnr_db_percentiles: dict[str, float]
    """The PSNR that 5, 50 and 95 % of the images do not exceed."""
    ssim: float
    """Mean over images of the reconstruction's SSIM."""
    ssim_percentiles: dict[str, float]
    tokens: int
    """Indices counted for the two figures below."""
    codebook_usage: float
    """Share of codes chosen at least once, in [0, 1]; bounded by `tokens` over the codebook's size."""
    perplexity: float
    """exp of the entropy of the choice: the number of equally likely codes that would be as varied."""
    effective_rank: float | None = None
    """exp of the entropy of the effective codes' normalized singular values; needs a checkpoint."""
    feature_norm: float | None = None
    """Mean Euclidean norm of the projected features; needs a checkpoint."""
    code_norm: float | None = None
    """Mean Euclidean norm of the effective codes; needs a checkpoint."""
    frechet_distance: float | None
    """Squared Fréchet distance between the pooled features of originals and reconstructions; None of one image."""
    frechet_space: str
    """Whose features."""
    rfid: float | None = None
    """The same in Inception's feature space; None where torch-fidelity or its weights are not there."""
    probe: dict[str, float] | None = None
    """Linear-probe accuracy per scene attribute and their mean, in [0, 1]; where it was asked for."""
    skipped: tuple[str, ...] = ()
    """Images that could not be read, and why."""
    notes: tuple[str, ...] = ()
    """Which figures are missing or weak, and why."""


def evaluate(
    tokenizer: ArrayTokenizer,
    codebook_size: int,
    images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
    source: str,
    *,
    model: VQRAE | None = None,
    space: FeatureSpace | None = None,
    inception: FeatureSpace | None = None,
) -> EvalReport:
    """Reconstruct images, and count the codes that they use.

    Args:
        tokenizer: what is judged.
        codebook_size: its number of codes K.
        images: uint8 (B, H, W, 3), or a stream of such chunks.
        source: what the report calls the tokenizer.
        model: its weights, for the figures that need the effective codes.
        space: where the Fréchet distance is taken; None is the tokenizer's own features.
        inception: where rFID is taken.

    Raises:
        ImageError: there is no image.
        InvalidInput: features are NaN or infinite.
    """
    figures = _Figures(tokenizer, codebook_size, model, space, inception)
    for originals in _chunks(images):
        figures.add(originals)
    return figures.report(source)


class _Figures:
    """What is kept of the images, chunk by chunk; see `evaluate`."""

    def __init__(
        self,
        tokenizer: ArrayTokenizer,
        codebook_size: int,
        model: VQRAE | None,
        space: FeatureSpace | None,
        inception: FeatureSpace | None,
    ) -> None:
        self.tokenizer, self.space, self.inception = tokenizer, space, inception
        self.psnrs: list[float] = []
        self.ssims: list[float] = []
        self.counts = np.zeros(codebook_size, np.int64)
        self.codebook = None if model is None else CodebookMeter(model)
        self.frechet, self.fidelity = FrechetMeter(), None if inception is None else FrechetMeter()

    def add(self, originals: NDArray[np.uint8]) -> None:
        """Reconstruct uint8 (B, H, W, 3), and take in what comes of it."""
        indices, features = self.tokenizer.encode(originals)
        reconstructed = self.tokenizer.decode(indices)
        self.psnrs += [psnr_db(a, b) for a, b in zip(originals, reconstructed, strict=True)]
        self.ssims += [mean_ssim(a[None], b[None]) for a, b in zip(originals, reconstructed, strict=True)]
        self.counts += np.bincount(indices.ravel(), minlength=len(self.counts))
        if self.codebook is not None:
            self.codebook.add(features)
        if self.space is None:
            self.frechet.add(_pooled(features), _pooled(self.tokenizer.encode(reconstructed)[1]))
        else:
            self.frechet.add(self.space.pooled(originals), self.space.pooled(reconstructed))
        if self.inception is not None and self.fidelity is not None:
            self.fidelity.add(self.inception.pooled(originals), self.inception.pooled(reconstructed))

    def report(self, source: str) -> EvalReport:
        """The figures; raises ImageError where there was no image."""
        if not self.psnrs:
            raise ImageError("images", got="none", expected="at least one")
        own = f"its own features, {self.frechet.originals.width} wide, mean over tokens"
        return EvalReport(
            source=source,
            images=len(self.psnrs),
            psnr_db=float(np.mean(self.psnrs)),
            psnr_db_percentiles=_percentiles(self.psnrs),
            ssim=float(np.mean(self.ssims)),
            ssim_percentiles=_percentiles(self.ssims),
            tokens=int(self.counts.sum()),
            codebook_usage=float((self.counts > 0).mean()),
            perplexity=exp_entropy(self.counts),
            **({} if self.codebook is None else self.codebook.figures()),
            frechet_distance=self.frechet.distance(),
            frechet_space=own if self.space is None else self.space.name,
            rfid=None if self.fidelity is None else self.fidelity.distance(),
            notes=_warnings(self.frechet, self.fidelity),
        )


def evaluate_subject(
    subject: Subject,
    stream: ImageStream,
    *,
    space: FeatureSpace | None = None,
    probe: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvalReport:
    """All figures of a checkpoint or a bundle, and beside them what is missing and why.

    Args:
        subject: what is judged.
        stream: of its size.
        space: where the Fréchet distance is taken; None is the tokenizer's own features.
        probe: whether a linear probe is trained too, on labelled scenes of its size, which is square.
        progress: called with the images that are done, and how many there are.

    Raises:
        ImageError, InvalidInput: see `evaluate`.
        DataError: too many of the images cannot be read.
    """
    inception, missing = _inception()
    images, codes = _counted(stream, progress), subject.codebook_size
    report = evaluate(
        subject.tokenizer, codes, images, str(subject.source), model=subject.model, space=space, inception=inception
    )
    notes = [*report.notes, *([f"rfid: {missing}"] if missing else ()), *(() if subject.model else (_NO_CODES,))]
    accuracy = None
    if probe:
        train, held_out = (list(photographs(split).values()) for split in (TRAIN, HELD_OUT))
        accuracy = probe_accuracy(subject.tokenizer, train, held_out, subject.size[0])
    found = {"probe": accuracy, "skipped": tuple(stream.skipped.values()), "notes": (*notes, *stream.notes)}
    return report.model_copy(update=found)


def _inception() -> tuple[FeatureSpace | None, RuntimeUnavailable | None]:
    """RFID's feature space, or why it is not there."""
    try:
        return open_inception(), None
    except RuntimeUnavailable as error:
        return None, error


def _counted(stream: ImageStream, progress: Callable[[int, int], None]) -> Iterator[NDArray[np.uint8]]:
    """The images of a stream, while it is told how many are done."""
    done = 0
    progress(done, len(stream))
    for chunk in stream:
        yield chunk.images
        done += len(chunk.images)
        progress(done, len(stream))


class CodebookMeter:
    """Rank and norms of a model's effective codes, and beside them the norm of the features that they are to meet."""

    def __init__(self, model: VQRAE) -> None:
        with torch.inference_mode():
            self._codes_KE = model.quantizer.codes().numpy()
        self._projection = model.in_projection
        self._norms, self._tokens = 0.0, 0

    def add(self, features_BNC: NDArray[np.float32]) -> None:
        """Take in the continuous features of some images."""
        with torch.inference_mode():
            projected = self._projection(torch.tensor(features_BNC)).numpy()
        norms = np.linalg.norm(projected.astype(np.float64), axis=-1)
        self._norms, self._tokens = self._norms + norms.sum(), self._tokens + norms.size

    def figures(self) -> dict[str, float]:
        """The fields of `EvalReport` that need a model."""
        codes = self._codes_KE
        return {
            "effective_rank": exp_entropy(np.linalg.svd(codes - codes.mean(0), compute_uv=False)),
            "feature_norm": float(self._norms / self._tokens),
            "code_norm": float(np.linalg.norm(codes, axis=-1).mean()),
        }


def exp_entropy(weights: NDArray[np.number]) -> float:
    """Exponential of the entropy of weights ≥ 0 over their sum: perplexity of counts, effective rank of a spectrum."""
    shares = weights[weights > 0] / weights.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _chunks(images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]]) -> Iterable[NDArray[np.uint8]]:
    if not isinstance(images, np.ndarray):
        return images
    return (images[start : start + CHUNK_IMAGES] for start in range(0, len(images), CHUNK_IMAGES))


def _pooled(features_BNC: NDArray[np.float32]) -> NDArray[np.float64]:
    return features_BNC.mean(1, dtype=np.float64)


def _percentiles(values: list[float]) -> dict[str, float]:
    return {
        f"p{share}": float(value) for share, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    }


def _warnings(frechet: FrechetMeter, fidelity: FrechetMeter | None) -> tuple[str, ...]:
    meters = {"frechet_distance": frechet, "rfid": fidelity}
    said = {name: meter.warning() for name, meter in meters.items() if meter is not None}
    return tuple(f"{name}: {warning}" for name, warning in said.items() if warning)
