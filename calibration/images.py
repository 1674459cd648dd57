"""The images that numeric ranges are taken from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrae.images.numbered import Images, source_images
from vqrae.images.report import Damaged, LeftOut, lines_of
from vqrae.runtimes.errors import ImageError, UsageError
from vqrae.runtimes.preprocess import prepare

LEAST_IMAGES = 128
"""Fewer leave ranges to chance; a user may ask for less by naming the number."""


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """What was chosen."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    """(B, H, W, 3), after the preprocessing rule."""
    sha256: tuple[str, ...]
    """Of each prepared image's bytes: equal pixels are equal, whatever file they came from."""
    seed: int
    duplicates: int
    """Images that were passed over because an equal one had been chosen."""
    left_out: tuple[LeftOut, ...] = ()
    """What of the source was not read."""
    damaged: tuple[Damaged, ...] = ()
    """What of it could not be read; of images, those that were passed over."""

    def parted(self, count: int) -> tuple[CalibrationImages, CalibrationImages]:
        """The first `count` images, and the others."""
        first, others = (
            replace(self, names=self.names[part], images=self.images[part], sha256=self.sha256[part])
            for part in (slice(count), slice(count, None))
        )
        return first, others


def pixels_sha256(image: NDArray[np.uint8]) -> str:
    """SHA-256 of a prepared image's bytes, uint8 (H, W, 3)."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def calibration_images(
    source: Path,
    size: tuple[int, int],
    *,
    count: int = LEAST_IMAGES,
    seed: int = 0,
    kept_apart: Mapping[str, str] | None = None,
) -> CalibrationImages:
    """Choose `count` different images of a source by a seed, and prepare them.

    Args:
        source: see `vqrae.images.numbered.source_images`.
        size: (H, W) in pixels of the tokenizer's images.
        count: how many.
        seed: of the choice; the same source, count and seed give the same images in the same order.
        kept_apart: SHA-256 -> name of the images that the result is verified on, which may not be among them.

    Raises:
        DataError: the source cannot be read.
        UsageError: it holds fewer different images, or one that is kept apart.
    """
    if count < 1:
        raise UsageError("number of calibration images", got=str(count), expected="at least 1")
    candidates = source_images(source)
    choice = _Choice(kept_apart=kept_apart or {}, damaged=list(candidates.damaged))
    for number in map(int, np.random.default_rng(seed).permutation(len(candidates))):
        choice.consider(candidates, number, size)
        if len(choice.images) == count:
            break
    _check_count(source, len(choice.images), count, choice.duplicates, choice.damaged)
    names, images = zip(*choice.images.values(), strict=True)
    return CalibrationImages(
        names=names,
        images=np.stack(images),
        sha256=tuple(choice.images),
        seed=seed,
        duplicates=choice.duplicates,
        left_out=tuple(candidates.left_out),
        damaged=tuple(choice.damaged),
    )


@dataclass
class _Choice:
    """What was chosen so far, and what was passed over."""

    kept_apart: Mapping[str, str]
    damaged: list[Damaged]
    images: dict[str, tuple[str, NDArray[np.uint8]]] = field(default_factory=dict)
    """SHA-256 -> name and pixels."""
    duplicates: int = 0

    def consider(self, candidates: Images, number: int, size: tuple[int, int]) -> None:
        """Take one, unless an equal one was taken or it cannot be read."""
        name = candidates.name(number)
        try:
            image = prepare(candidates.read(number), *size)
        except ImageError as error:
            self.damaged.append(Damaged(key=name, reason=str(error)))
            return
        digest = pixels_sha256(image)
        if digest in self.kept_apart:
            got, expected = f"{self.kept_apart[digest]}, which the result is verified on", "other images"
            raise UsageError(f"calibration image {name}", got=got, expected=expected, remedy="leave it out")
        if digest in self.images:
            self.duplicates += 1
        else:
            self.images[digest] = name, image


def _check_count(source: Path, found: int, count: int, duplicates: int, damaged: Sequence[Damaged]) -> None:
    if found < count:
        repeated = f" and {duplicates} that equal one of them" if duplicates else ""
        unread = "".join(f"; {line}" for line in lines_of([], damaged))
        raise UsageError(
            f"calibration images in {source}",
            got=f"{found} different ones{repeated}{unread}",
            expected=f"at least {count}",
            remedy=f"give more, or ask for fewer with --calibration-images {found}",
        )
