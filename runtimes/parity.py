"""Parity: is the deployed tokenizer still the tokenizer it was made from?

Codes lie close together, so a flipped token is often harmless. A deployed tokenizer is judged by what its flips cost
(excess distortion), beside how many there are (token agreement) and how many the numeric noise does not explain.

Covered: indices, features, decoded images, and the reconstruction end to end. Not covered: speed, and numbers that a
runtime does not return (its scores); what is measured is what a client of the bundle sees.

Shape suffixes: M tokens of all images, K codes, E code width, C feature width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.code_space import Codes, CodeSpace, Features, as_indices, by_token, with_level
from vqrae.runtimes.evidence import MarginHistogram, ParityFigures
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.precision import Limits

IDENTICAL_PSNR_DB = 100.0
"""PSNR given to identical images, and the largest that is told: a number that JSON can hold."""
HISTOGRAM_BINS = 24

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
"""The figures that a bundle with both graphs and features is judged by."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one tokenizer made of the same images; None where it has no graph for it."""

    indices: NDArray[np.int32] | None
    """(B, h, w), or with several codes a token (B, g, h, w)."""
    features: NDArray[np.float32] | None
    """(B, h·w, C)."""
    decoded: NDArray[np.uint8] | None
    """(B, H, W, 3), decoded from the *reference's* indices, so that decoders are compared alone."""
    reconstructed: NDArray[np.uint8] | None
    """(B, H, W, 3), decoded from its own indices."""


@dataclass(frozen=True, kw_only=True)
class Reference(Sample):
    """The PyTorch model's sample, with what is needed to judge others by it."""

    indices: NDArray[np.int32]
    images: NDArray[np.uint8]
    """(B, H, W, 3), the source images after preprocessing."""
    runners_up: NDArray[np.int32] | None
    """Shaped as the indices, the second-best code of each; None where nothing encodes."""
    space: CodeSpace | None
    """The same."""

    def margins(self) -> NDArray[np.float64]:
        """How far the best code lies before the second best, ½(cost₂ − cost₁), in float64, shaped as the indices.

        Slightly negative where the reference's own FP32 rounding decided.

        Raises:
            ValueError: nothing encodes.
        """
        if self.space is None or self.features is None or self.runners_up is None:
            raise ValueError("margins of a reference that does not encode")
        features_MC, best_Mg, second_Mg = _rows(self.features), by_token(self.indices), by_token(self.runners_up)
        margins_Mg = (_costs(self.space, features_MC, best_Mg, second_Mg) - self.space.cost(features_MC, best_Mg)) / 2
        return as_indices(margins_Mg, self.indices.shape)


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
    """Compare a deployed tokenizer's sample with the reference's; a figure of what one of them lacks is None."""
    codes = _code_figures(reference, sample)
    return ParityFigures(
        images=len(reference.images),
        tokens=reference.indices.size,
        excess_distortion=codes.excess_distortion,
        token_agreement=codes.token_agreement,
        mismatches=codes.mismatches,
        unexplained_mismatches=codes.unexplained_mismatches,
        noise=codes.noise,
        feature_cosine=_of_both(_cosine, reference.features, sample.features),
        feature_max_error=_of_both(_max_error, reference.features, sample.features),
        decode_psnr_db=_of_both(psnr_db, reference.decoded, sample.decoded),
        source_psnr_drop_db=_drop(mean_psnr_db, reference, sample),
        source_ssim_drop=_drop(mean_ssim, reference, sample),
        margin_histogram=codes.margin_histogram,
    )


class _CodeFigures(NamedTuple):
    """The figures of `ParityFigures` that tell of codes."""

    excess_distortion: float | None = None
    token_agreement: float | None = None
    mismatches: int | None = None
    unexplained_mismatches: int | None = None
    noise: float | None = None
    margin_histogram: MarginHistogram | None = None


def _code_figures(reference: Reference, sample: Sample) -> _CodeFigures:
    space, features, runners_up = reference.space, reference.features, reference.runners_up
    if sample.indices is None or space is None or features is None or runners_up is None:
        return _CodeFigures()
    features_MC, best_Mg, chosen_Mg = _rows(features), by_token(reference.indices), by_token(sample.indices)
    right_Mg = _right_codes(space, features_MC, best_Mg, chosen_Mg)
    least_Mg, paid_Mg = _costs(space, features_MC, chosen_Mg, right_Mg), space.cost(features_MC, chosen_Mg)
    unexplained = noise = None
    if sample.features is not None:
        other_MC, rounding = _rows(sample.features), space.rounding(features_MC)
        unexplained, noise = 0, rounding
        for level in range(best_Mg.shape[1]):
            wrong = np.flatnonzero(right_Mg[:, level] != chosen_Mg[:, level])
            gaps = (paid_Mg - least_Mg)[wrong, level] / 2
            right = with_level(chosen_Mg, level, right_Mg)
            moved = space.moved(features_MC[wrong], other_MC[wrong], right[wrong], chosen_Mg[wrong])[:, level]
            unexplained += int((gaps > moved + rounding).sum())
            second_Mg = with_level(best_Mg, level, by_token(runners_up))
            most = space.moved(features_MC, other_MC, best_Mg, second_Mg)[:, level].max()
            noise = max(noise, float(most + rounding))
    flipped = reference.indices != sample.indices
    return _CodeFigures(
        excess_distortion=float(paid_Mg.sum() / least_Mg.sum() - 1),
        token_agreement=1 - int(flipped.sum()) / flipped.size,
        mismatches=int(flipped.sum()),
        unexplained_mismatches=unexplained,
        noise=noise,
        margin_histogram=_histogram(reference.margins().ravel(), flipped.ravel()),
    )


def _right_codes(space: CodeSpace, features_MC: Features, best_Mg: Codes, chosen_Mg: Codes) -> Codes:
    """The best code at each level given the chosen earlier ones: the reference's own, as long as these are its too."""
    right_Mg = best_Mg.copy()
    strayed_Mg = np.cumsum(best_Mg != chosen_Mg, axis=1)[:, :-1] > 0  # where an earlier code is another one
    strayed = np.flatnonzero(strayed_Mg.any(axis=1))
    if len(strayed):
        found = space.best_two(features_MC[strayed], chosen_Mg[strayed])[..., 0]
        right_Mg[strayed, 1:] = np.where(strayed_Mg[strayed], found[:, 1:], best_Mg[strayed, 1:])
    return right_Mg


def _costs(space: CodeSpace, features_MC: Features, codes_Mg: Codes, other_Mg: Codes) -> NDArray[np.float64]:
    """What the other codes would leave at each level, given these earlier ones; (M, g)."""
    levels = range(codes_Mg.shape[1])
    each = [space.cost(features_MC, with_level(codes_Mg, n, other_Mg))[:, n : n + 1] for n in levels]
    return np.concatenate(each, axis=1)


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


def required_figures(manifest: Manifest) -> tuple[str, ...]:
    """The figures of `PARITY` that a bundle must have, by the graphs and outputs that it has."""
    encodes, decodes = ("encode" in manifest.graphs, "decode" in manifest.graphs)
    needs = {
        "unexplained_mismatches": encodes and manifest.tokens.feature_width is not None,
        "decode_psnr_db": decodes,
        "source_psnr_drop_db": encodes and decodes,
    }
    return tuple(figure for figure in PARITY if needs.get(figure, encodes))


def judge_parity(figures: ParityFigures, limits: Limits, required: Collection[str] = PARITY) -> tuple[Check, ...]:
    """Judge what was measured of a bundle's graphs: nothing that is required may be absent; no speed is asked for."""
    return judge(dict(figures), limits, required)


def misses(checks: Iterable[Check]) -> tuple[str, ...]:
    """The limits that are not kept, each as a phrase with both numbers."""
    return tuple(check.miss() for check in checks if check.kept is False)


def _rows(features: Features) -> Features:
    """(B, h·w, C) -> (M, C)."""
    return features.reshape(-1, features.shape[-1])


_Array = TypeVar("_Array", bound=NDArray[Any])


def _of_both(quality: Callable[[_Array, _Array], float], one: _Array | None, other: _Array | None) -> float | None:
    """What two arrays are to each other; None where one of them is not there."""
    return None if one is None or other is None else quality(one, other)


def _cosine(one: Features, other: Features) -> float:
    """Mean over tokens of the cosine between two sets of features."""
    a, b = _rows(one).astype(np.float64), _rows(other).astype(np.float64)
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())


def _max_error(one: Features, other: Features) -> float:
    return float(np.abs(one - other).max())


def _drop(
    quality: Callable[[NDArray[np.uint8], NDArray[np.uint8]], float], reference: Reference, sample: Sample
) -> float | None:
    """How much closer to the source images the reference's reconstructions are than the sample's."""
    if reference.reconstructed is None or sample.reconstructed is None:
        return None
    return quality(reference.images, reference.reconstructed) - quality(reference.images, sample.reconstructed)


def _histogram(margins_M: NDArray[np.float64], flipped_M: NDArray[np.bool_]) -> MarginHistogram:
    """Tokens and mismatches by the reference's top-2 margin, in logarithmic bins."""
    positive = np.maximum(margins_M, 1e-6)
    edges = np.geomspace(positive.min() * 0.999, positive.max() * 1.001, HISTOGRAM_BINS + 1)
    tokens, mismatches = (np.histogram(part, edges)[0] for part in (positive, positive[flipped_M]))
    return MarginHistogram(
        edges=tuple(edges.tolist()), tokens=tuple(tokens.tolist()), mismatches=tuple(mismatches.tolist())
    )
