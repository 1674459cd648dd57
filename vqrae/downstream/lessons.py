"""The phases that train a reader and a painter: the toolkit's loop, with its saving, stopping and going on.

The tokenizer learns nothing here: its features and its codes are computed once for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqrae.checkpoint import WEIGHTS_FILE, from_pretrained
from vqrae.downstream.conversations import Conversations
from vqrae.downstream.painter import Painter
from vqrae.downstream.reader import Reader
from vqrae.model.encoder import Encoder
from vqrae.model.layers import pixels_from_uint8
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.staging import staged_file
from vqrae.training.config import AUTOCAST, PhaseConfig
from vqrae.training.phase import Outcome, Phase, trainable

CODES_FILE = "codes.npy"
CHUNK_IMAGES = 64


class LessonConfig(PhaseConfig):
    """What a reader's and a painter's phase reads."""


class FrozenFeatures:
    """The features of a data set's images, each computed when it is first needed and kept in float16."""

    def __init__(self, encoder: Encoder, data: Conversations, kept: int = 20_000) -> None:
        """`kept` images' features are held in memory at most."""
        self.encoder = encoder.eval().requires_grad_(False)
        self.data = data
        self.kept = kept
        self._known: dict[int, Tensor] = {}

    @torch.no_grad()
    def features(self, numbers: Sequence[int]) -> Tensor:
        """Float32 (B, N, C) of these images."""
        new = sorted(set(numbers) - self._known.keys())
        fresh: dict[int, Tensor] = {}
        if new:
            images = torch.from_numpy(np.stack([self.data.image(number) for number in new]))
            # As they are kept: what is read does not depend on whether it was.
            fresh = dict(zip(new, self.encoder(pixels_from_uint8(images)).half(), strict=True))
            room = max(0, self.kept - len(self._known))
            self._known |= dict(list(fresh.items())[:room])
        return torch.stack([self._known.get(number, fresh.get(number)) for number in numbers]).float()  # type: ignore[misc]


class ReadingLesson(Phase):
    """Adapter and language model, or the adapter alone, learn to answer."""

    def __init__(
        self, reader: Reader, config: LessonConfig, features: FrozenFeatures, seed: int, *, adapter_only: bool = False
    ) -> None:
        self.config = config
        self.module = reader
        self.objective = _ReadingObjective(reader, features.data, config, seed)
        self.features, self.seed = features, seed
        reader.language.requires_grad_(not adapter_only)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns, at one rate."""
        return [_group(self.module, self.config)]

    def batch(self, step: int, rows: range) -> tuple[Tensor, ...]:
        """Features (len(rows), N, C), numbers of the images, and the step."""
        rng = np.random.default_rng([self.seed, step])
        numbers = rng.integers(len(self.features.data), size=self.config.batch_size)[rows.start : rows.stop]
        return self.features.features(numbers.tolist()), torch.from_numpy(numbers), torch.tensor(step)


class _ReadingObjective(nn.Module):
    def __init__(self, reader: Reader, data: Conversations, config: LessonConfig, seed: int) -> None:
        super().__init__()
        self.reader, self.data, self.config, self.seed = reader, data, config, seed

    def forward(self, features_BNC: Tensor, numbers_B: Tensor, step: Tensor) -> Outcome:
        turns = [
            self.data.turns(number, np.random.default_rng([self.seed, int(step), number]))
            for number in numbers_B.tolist()
        ]
        with torch.autocast(features_BNC.device.type, torch.bfloat16, enabled=AUTOCAST[self.config.precision]):
            loss = self.reader(features_BNC, turns)
        return Outcome({"answers": loss})


class PaintedData:
    """The codes of images and their captions, as a painter learns them."""

    def __init__(self, indices_BN: NDArray[np.integer[Any]], captions: Sequence[str]) -> None:
        """Indices (B, N) and one caption for each."""
        self.indices_BN = torch.from_numpy(indices_BN.astype(np.int64))
        self.captions = list(captions)

    def __len__(self) -> int:
        return len(self.captions)


class CheckpointCodes:
    """A checkpoint's codes, as a painter learns them: their vectors, and the codes of images."""

    def __init__(self, folder: Path) -> None:
        """Errors as for `from_pretrained`."""
        model = from_pretrained(folder)
        self.size, self.grid = model.size, model.grid
        self.weights_sha256 = sha256_file(folder / WEIGHTS_FILE)
        with torch.inference_mode():
            self.codes_KE = model.quantizer.codes()
        self._tokenizer = ReferenceTokenizer(model)

    def painted(self, data: Conversations, path: Path) -> PaintedData:
        """The codes of all images, kept in a file so that they are computed once, and the captions."""
        if not path.exists():
            codes = self._codes(data)
            with staged_file(path, size=codes.nbytes) as staging, staging.open("wb") as file:
                np.save(file, codes, allow_pickle=False)
        return PaintedData(np.load(path, allow_pickle=False), [data.caption(number) for number in range(len(data))])

    def _codes(self, data: Conversations) -> NDArray[np.int32]:
        chunks = []
        for start in range(0, len(data), CHUNK_IMAGES):
            images = [data.image(number) for number in range(start, min(start + CHUNK_IMAGES, len(data)))]
            indices, _ = self._tokenizer.encode(np.stack(images))
            chunks.append(indices.reshape(len(images), -1))
        return np.concatenate(chunks)


class PaintingLesson(Phase):
    """The language model learns to go on with codes."""

    def __init__(self, painter: Painter, config: LessonConfig, data: PaintedData, seed: int, dropped: float) -> None:
        """`dropped` is the share of the prompts that is left out."""
        self.config = config
        self.module = painter
        self.objective = _PaintingObjective(painter, config, data, seed, dropped)
        self.data, self.seed = data, seed

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything, at one rate."""
        return [_group(self.module, self.config)]

    def batch(self, step: int, rows: range) -> tuple[Tensor, ...]:
        """Numbers of the images, and the step."""
        rng = np.random.default_rng([self.seed, step])
        numbers = rng.integers(len(self.data), size=self.config.batch_size)[rows.start : rows.stop]
        return torch.from_numpy(numbers), torch.tensor(step)


class _PaintingObjective(nn.Module):
    def __init__(self, painter: Painter, config: LessonConfig, data: PaintedData, seed: int, dropped: float) -> None:
        super().__init__()
        self.painter, self.config, self.data, self.seed, self.dropped = painter, config, data, seed, dropped

    def forward(self, numbers_B: Tensor, step: Tensor) -> Outcome:
        numbers = numbers_B.tolist()
        # A draw for each image, so that accumulation and processes see the same ones.
        rngs = (np.random.default_rng([self.seed, int(step), number]) for number in numbers)
        prompts = [
            "" if rng.random() < self.dropped else self.data.captions[number]
            for rng, number in zip(rngs, numbers, strict=True)
        ]
        with torch.autocast(numbers_B.device.type, torch.bfloat16, enabled=AUTOCAST[self.config.precision]):
            loss = self.painter(prompts, self.data.indices_BN[numbers_B])
        return Outcome({"codes": loss})


@torch.no_grad()
def painting_loss(painter: Painter, data: PaintedData, batch_size: int = 50) -> float:
    """Mean cross-entropy of a code, in nats, with every prompt given; float32."""
    painter.eval()
    starts = range(0, len(data), batch_size)
    sums = [
        float(painter(data.captions[start : start + batch_size], data.indices_BN[start : start + batch_size]))
        * len(data.captions[start : start + batch_size])
        for start in starts
    ]
    return sum(sums) / len(data)


def _group(module: nn.Module, config: PhaseConfig) -> dict[str, Any]:
    return {"params": trainable(module), "lr": config.learning_rate, "end_factor": config.end_factor}
