"""Parity: is the deployed tokenizer still the tokenizer it was made from?

Codes lie close together, so a flipped token is often harmless. A deployed tokenizer is judged by what its flips cost
(excess distortion), beside how many there are (token agreement) and how many the numeric noise does not explain.

Covered: indices, features, decoded images, and the reconstruction end to end. Not covered: speed, and numbers that a
runtime does not return (its scores); what is measured is what a client of the bundle sees.

Shape suffixes: M tokens of all images, K codes, E code width, C feature width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.evidence import MarginHistogram, ParityFigures
from vqrae.runtimes.precision import Limits

IDENTICAL_PSNR_DB = 100.0
"""PSNR given to identical images, and the largest that is told: a number that JSON can hold."""
HISTOGRAM_BINS = 24
CHUNK_TOKENS = 4096
"""Tokens whose float64 distances are held at a time."""

Relation = Literal["<=", ">=", ">"]
Unit = Literal["%", " dB", ""]
_RELATIONS: dict[Relation, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}
_JUDGED: dict[str, tuple[str, Relation, str, Unit]] = {
    "excess_distortion": ("excess distortion", "<=", "max_excess_distortion", "%"),
    "token_agreement": ("token agreement", ">=", "min_token_agreement", "%"),
    "unexplained_mismatches": ("unexplained mismatches", "<=", "max_unexplained_mismatches", ""),
    "decode_psnr_db": ("decode PSNR", ">=", "min_decode_psnr_db", " dB"),
    "source_psnr_drop_db": ("PSNR drop to source", "<=", "max_source_psnr_drop_db", " dB"),
    "speedup": ("speedup", ">", "speedup_above", ""),
}
"""Figure -> what it is called, its relation to which field of `Limits`, and its unit."""
PARITY = tuple(figure for figure in _JUDGED if figure != "speedup")
"""The figures that a bundle with both graphs is judged by."""


@dataclass(frozen=True, kw_only=True)
class CodeSpace:
    """Where distances are measured: the reference's projection into the quantizer, and its effective codes."""

    weight_EC: NDArray[np.float32]
    bias_E: NDArray[np.float32]
    codes_KE: NDArray[np.float32]

    def distances(self, features_MC: NDArray[np.float32], indices_M: NDArray[np.integer]) -> NDArray[np.float64]:
        """Squared Euclidean distance, in float64, of each projected feature to the code chosen for it; (M,)."""
        weight, bias = self.weight_EC.astype(np.float64), self.bias_E.astype(np.float64)
        found = np.empty(len(indices_M))
        for rows in _chunks(len(indices_M)):
            offsets = features_MC[rows].astype(np.float64) @ weight.T + bias - self.codes_KE[indices_M[rows]]
            found[rows] = np.square(offsets).sum(1)
        return found

    def scores_error(
        self,
        features_MC: NDArray[np.float32],
        other_MC: NDArray[np.float32],
        first_M: NDArray[np.integer],
        second_M: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """How much the score difference between two codes moves when `other` takes the place of `features`; (M,)."""
        weight = self.weight_EC.astype(np.float64)
        found = np.empty(len(first_M))
        for rows in _chunks(len(first_M)):
            shift = (other_MC[rows].astype(np.float64) - features_MC[rows]) @ weight.T
            between = self.codes_KE[first_M[rows]].astype(np.float64) - self.codes_KE[second_M[rows]]
            found[rows] = np.abs((shift * between).sum(1))
        return found


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one tokenizer made of the same images."""

    indices: NDArray[np.int32]
    """(B, h, w)."""
    features: NDArray[np.float32]
    """(B, h·w, C)."""
    decoded: NDArray[np.uint8]
    """(B, H, W, 3), decoded from the *reference's* indices, so that decoders are compared alone."""
    reconstructed: NDArray[np.uint8]
    """(B, H, W, 3), decoded from its own indices."""


@dataclass(frozen=True, kw_only=True)
class Reference(Sample):
    """The PyTorch model's sample, with what is needed to judge others by it."""

    images: NDArray[np.uint8]
    """(B, H, W, 3), the source images after preprocessing."""
    runners_up: NDArray[np.int32]
    """(B, h, w), the second-best code of each token."""
    space: CodeSpace

    def margins(self) -> NDArray[np.float64]:
        """How far the best score lies above the second best, ½(‖z − c₂‖² − ‖z − c₁‖²), in float64, (B, h, w).

        Slightly negative where the reference's own FP32 rounding decided.
        """
        features = self.features.reshape(-1, self.features.shape[-1])
        best, second = (self.space.distances(features, part.ravel()) for part in (self.indices, self.runners_up))
        return ((second - best) / 2).reshape(self.indices.shape)


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB between two uint8 arrays of one shape, peak 255."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(min(10 * np.log10(255**2 / error), IDENTICAL_PSNR_DB)) if error else IDENTICAL_PSNR_DB


def mean_psnr_db(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Mean over images of the PSNR in dB; both uint8 (B, H, W, 3)."""
    return float(np.mean([psnr_db(a, b) for a, b in zip(images, others, strict=True)]))


def mean_ssim(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Mean over images of SSIM (Wang et al. 2004: 11×11 Gaussian window, σ 1.5); both uint8 (B, H, W, 3).

    In images of less than 11 pixels a side the window is as large as fits.
    """
    return float(
        np.mean([_ssim(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(images, others, strict=True)])
    )


def _ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """SSIM of (H, W, 3) with peak 255, over the positions where the window fits."""
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return float((luminance * structure).mean())


def _windowed(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted mean around each pixel of (H, W, 3), where the window fits."""
    reach = min(5, (min(image.shape[:2]) - 1) // 2)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 1.5) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        image = np.lib.stride_tricks.sliding_window_view(image, len(taps), axis=axis) @ taps
    return image


def measure(reference: Reference, sample: Sample) -> ParityFigures:
    """Compare a deployed tokenizer's sample with the reference's."""
    features, other = (part.features.reshape(-1, part.features.shape[-1]) for part in (reference, sample))
    best, chosen = reference.indices.ravel(), sample.indices.ravel()
    runners_up = reference.runners_up.ravel()
    space = reference.space
    best_distances, chosen_distances = space.distances(features, best), space.distances(features, chosen)
    rounding = _rounding(features, space)
    flipped = np.flatnonzero(best != chosen)
    gaps = (chosen_distances - best_distances)[flipped] / 2
    noises = space.scores_error(features[flipped], other[flipped], best[flipped], chosen[flipped]) + rounding
    return ParityFigures(
        images=len(reference.images),
        tokens=best.size,
        excess_distortion=float(chosen_distances.sum() / best_distances.sum() - 1),
        token_agreement=1 - len(flipped) / best.size,
        mismatches=len(flipped),
        unexplained_mismatches=int((gaps > noises).sum()),
        noise=float(space.scores_error(features, other, best, runners_up).max() + rounding),
        feature_cosine=_cosine(features, other),
        feature_max_error=float(np.abs(features - other).max()),
        decode_psnr_db=psnr_db(reference.decoded, sample.decoded),
        source_psnr_drop_db=_drop(mean_psnr_db, reference, sample),
        source_ssim_drop=_drop(mean_ssim, reference, sample),
        margin_histogram=_histogram(reference.margins().ravel(), best != chosen),
    )


@dataclass(frozen=True)
class Check:
    """One figure against one limit."""

    name: str
    value: float | None
    """None where it was not measured, which misses."""
    relation: Relation
    limit: float | None
    """None where the figure is only reported."""
    unit: Unit = ""
    """With `%`, value and limit are fractions."""

    @property
    def kept(self) -> bool | None:
        """Whether the limit is kept, which NaN never does; None where there is none."""
        if self.limit is None:
            return None
        return self.value is not None and _RELATIONS[self.relation](self.value, self.limit)

    def miss(self, value_format: str = ".6g", limit_format: str = ".6g") -> str:
        """Both numbers, such as `token agreement 97%, gate >= 98%`."""
        value, limit = self._text(self.value, value_format), self._text(self.limit, limit_format)
        return f"{self.name} {value}, gate {self.relation} {limit}"

    @property
    def limit_text(self) -> str:
        """Such as `≥ 98%`; empty where there is none."""
        sign = self.relation.replace("<=", "≤").replace(">=", "≥")
        return "" if self.limit is None else f"{sign} {self._text(self.limit, '.6g')}"

    def _text(self, number: float | None, form: str) -> str:
        if number is None:
            return "not measured"
        return f"{number * (100 if self.unit == '%' else 1):{form}}{self.unit}"


def judge(figures: Mapping[str, float | None], limits: Limits, required: Collection[str]) -> tuple[Check, ...]:
    """Hold figures against the limits of a precision: the one judge of export, verify, selftest and the reports.

    Args:
        figures: name -> figure, as in `ParityFigures`, and `speedup`.
        limits: of the bundle.
        required: figures that miss where they are absent; what else is absent is not judged.
    """
    return tuple(
        Check(name, figures.get(figure), relation, getattr(limits, limit), unit)
        for figure, (name, relation, limit, unit) in _JUDGED.items()
        if figure in required or figures.get(figure) is not None
    )


def judge_parity(figures: ParityFigures, limits: Limits) -> tuple[Check, ...]:
    """Judge what was measured of both graphs: nothing of it may be absent, but no speed is asked for."""
    return judge(dict(figures), limits, PARITY)


def misses(checks: Iterable[Check]) -> tuple[str, ...]:
    """The limits that are not kept, each as a phrase with both numbers."""
    return tuple(check.miss() for check in checks if check.kept is False)


def _chunks(count: int) -> Iterator[slice]:
    """Rows of `count`, `CHUNK_TOKENS` at a time."""
    return (slice(start, start + CHUNK_TOKENS) for start in range(0, count, CHUNK_TOKENS))


def _rounding(features_MC: NDArray[np.float32], space: CodeSpace) -> float:
    """Bound on what float32 rounding of the scores themselves can move a score difference, on both sides.

    Scores are compared in float32 by the reference and the runtimes alike, in different association orders; each may be
    off by a few units in the last place of the largest score.
    """
    projected = np.linalg.norm(features_MC @ space.weight_EC.T + space.bias_E, axis=1).max()
    largest = projected * np.linalg.norm(space.codes_KE, axis=1).max()
    return float(8 * np.finfo(np.float32).eps * largest)


def _cosine(a_MC: NDArray[np.float32], b_MC: NDArray[np.float32]) -> float:
    """Mean over tokens of the cosine between two sets of features."""
    a, b = a_MC.astype(np.float64), b_MC.astype(np.float64)
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())


def _drop(
    quality: Callable[[NDArray[np.uint8], NDArray[np.uint8]], float], reference: Reference, sample: Sample
) -> float:
    """How much closer to the source images the reference's reconstructions are than the sample's."""
    return quality(reference.images, reference.reconstructed) - quality(reference.images, sample.reconstructed)


def _histogram(margins_M: NDArray[np.float64], flipped_M: NDArray[np.bool_]) -> MarginHistogram:
    """Tokens and mismatches by the reference's top-2 margin, in logarithmic bins."""
    positive = np.maximum(margins_M, 1e-6)
    edges = np.geomspace(positive.min() * 0.999, positive.max() * 1.001, HISTOGRAM_BINS + 1)
    tokens, mismatches = (np.histogram(part, edges)[0] for part in (positive, positive[flipped_M]))
    return MarginHistogram(
        edges=tuple(edges.tolist()), tokens=tuple(tokens.tolist()), mismatches=tuple(mismatches.tolist())
    )
