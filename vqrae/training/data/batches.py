"""The batches of stages 1 and 2: crops of the photographs, then scenes over them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqrae.model.layers import pixels_from_uint8
from vqrae.training.config import StageConfig
from vqrae.training.data.crops import Crop
from vqrae.training.data.indexed import IndexedImages
from vqrae.training.data.scenes import SceneSource
from vqrae.training.data.shuffled import ShuffledStream
from vqrae.training.data.streamed import StreamedImages


class _Crops(Protocol):
    """Crops of a source's photographs."""

    def rows(self, step: int, rows: range) -> list[NDArray[np.uint8]]:
        """uint8 (S, S, 3) each: some rows of a step's crops."""

    def state_dict(self) -> dict[str, Any]:
        """What the next rows depend on, besides the step; for JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""

    @property
    def skipped(self) -> dict[str, str]:
        """Name -> reason, of the images that could not be read."""


class TrainingImages:
    """The batches of one phase, or of this process's part in it."""

    def __init__(
        self,
        source: IndexedImages | StreamedImages,
        scenes: SceneSource,
        config: StageConfig,
        size: int,
        seed: int,
    ) -> None:
        """Nothing is read yet.

        Args:
            source: of the photographs that are cropped.
            scenes: of this size; none is drawn where the configuration asks for none.
            config: batch size, share of scenes, color jitter.
            size: S, of the square images in pixels.
            seed: names all batches.
        """
        self.batch_size = config.batch_size
        self.scenes = scenes
        self.scene_count = round(config.scene_fraction * config.batch_size)
        self.crop_count = config.batch_size - self.scene_count
        self.seed = seed
        options = (size, config.color_jitter, seed)
        self._crops: _Crops = (
            _IndexedCrops(source, *options) if isinstance(source, IndexedImages) else _StreamedCrops(source, *options)
        )

    @property
    def skipped(self) -> dict[str, str]:
        """Name -> why it could not be read, of the images that this process met and left out."""
        return self._crops.skipped

    def pixels(self, step: int, rows: range | None = None) -> Tensor:
        """Images of one step.

        With an indexed source, they are a function of seed, step and row, and only the photographs of the rows asked
        for are opened. A stream gives its next ones to the rows that are crops, whatever the step; a scene is a
        function of seed, step and row there, too.

        Args:
            step: names the batch.
            rows: neighbouring rows of the batch; all by default.

        Returns:
            Pixels float32 (B, 3, S, S) in [-1, 1], B the number of rows.

        Raises:
            DataError: too many photographs cannot be read.
        """
        rows = range(self.batch_size) if rows is None else rows
        crops = range(rows.start, min(rows.stop, self.crop_count))
        scenes = range(max(rows.start - self.crop_count, 0), max(rows.stop - self.crop_count, 0))
        parts = [np.stack(self._crops.rows(step, crops))] if crops else []
        if scenes:
            parts.append(self.scenes.rows(scenes, [self.seed, step]).images)
        return pixels_from_uint8(torch.from_numpy(np.concatenate(parts)))

    def state_dict(self) -> dict[str, Any]:
        """Where a stream stands, for JSON; each process has its own. Empty for an indexed source."""
        return self._crops.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            UsageError: the state is of other data, another seed, or another process.
        """
        self._crops.load_state_dict(state)


class _IndexedCrops:
    """Photographs drawn with replacement."""

    def __init__(self, source: IndexedImages, size: int, color_jitter: float, seed: int) -> None:
        self.source, self.size, self.color_jitter, self.seed = source, size, color_jitter, seed

    @property
    def skipped(self) -> dict[str, str]:
        return self.source.unreadable.reasons

    def rows(self, step: int, rows: range) -> list[NDArray[np.uint8]]:
        rng = np.random.default_rng([self.seed, step])
        jittered = self.color_jitter > 0
        drawn = [(int(rng.integers(len(self.source))), Crop.draw(rng, colors=jittered)) for _ in range(rows.stop)]
        return [
            crop.cut(self._photograph(index, step, row), self.size, self.color_jitter)
            for row, (index, crop) in zip(rows, drawn[rows.start :], strict=True)
        ]

    def _photograph(self, index: int, step: int, row: int) -> Image.Image:
        """The photograph, or another in its place if it cannot be read: again a function of seed, step and row."""
        image, attempt = self.source.open(index), 0
        while image is None:
            attempt += 1  # it is never 0: trailing zeros would name the generator of the whole step
            rng = np.random.default_rng([self.seed, step, row, attempt])
            image = self.source.open(int(rng.integers(len(self.source))))
        return image

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _StreamedCrops:
    """The stream's next photographs, each cropped by its number in the stream."""

    def __init__(self, source: StreamedImages, size: int, color_jitter: float, seed: int) -> None:
        self.stream = ShuffledStream(source, seed)
        self.size, self.color_jitter, self.seed = size, color_jitter, seed

    @property
    def skipped(self) -> dict[str, str]:
        return self.stream.unreadable.reasons

    def rows(self, step: int, rows: range) -> list[NDArray[np.uint8]]:
        return [self._next() for _ in rows]

    def _next(self) -> NDArray[np.uint8]:
        number, photograph = self.stream.take()
        rng = np.random.default_rng([self.seed, self.stream.source.share.rank, number, 1])
        return Crop.draw(rng, colors=self.color_jitter > 0).cut(photograph, self.size, self.color_jitter)

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
