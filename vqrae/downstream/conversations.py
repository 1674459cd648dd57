"""Images with conversations about them: the world's own, or a file in LLaVA's format.

LLaVA's file is a JSON list of `{"image": path, "conversations": [{"from": "human", "value": "<image> …"}, {"from":
"gpt", "value": "…"}, …]}`. Its pre-training data has one turn each, whose answer is a caption; so one format serves
understanding and generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqrae.downstream.reader import Turn
from vqrae.downstream.world import World, caption, questions
from vqrae.runtimes.errors import DataError
from vqrae.runtimes.json_text import parse_json, read_text
from vqrae.runtimes.preprocess import prepare

IMAGE_MARK = "<image>"
"""Where LLaVA's prompts put the image; here it always comes first."""


class Conversations(Protocol):
    """Images and what is said about them, by number."""

    def __len__(self) -> int: ...

    def image(self, number: int) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        ...

    def turns(self, number: int, rng: np.random.Generator) -> list[Turn]:
        """A conversation; which one may be random."""
        ...

    def caption(self, number: int) -> str:
        """What the image shows."""
        ...


class WorldConversations:
    """Scenes of the world, each with its questions in random order."""

    def __init__(self, world: World, count: int, seed: int) -> None:
        self.world, self.count, self.seed = world, count, seed

    def __len__(self) -> int:
        return self.count

    def image(self, number: int) -> NDArray[np.uint8]:
        """See `Conversations`."""
        return self.world.rows(range(number, number + 1), [self.seed]).images[0]

    def turns(self, number: int, rng: np.random.Generator) -> list[Turn]:
        """All questions, yes or no drawn anew."""
        asked = questions(self._labels(number), rng)
        return [(asked[place].question, asked[place].answer) for place in rng.permutation(len(asked))]

    def caption(self, number: int) -> str:
        """See `Conversations`."""
        return caption(self._labels(number))

    def _labels(self, number: int) -> dict[str, int]:
        return self.world.labels(number, [self.seed])


MOST_BYTES = 2**32
"""Of a file of conversations: LLaVA's own have one gigabyte."""


class LlavaConversations:
    """Conversations of a file in LLaVA's format."""

    def __init__(self, path: Path, images: Path, size: tuple[int, int]) -> None:
        """Read the file; images are opened when they are asked for, and resized by the toolkit's rule.

        Raises:
            DataError: it is not in LLaVA's format, or holds no image.
        """
        try:
            entries: Any = parse_json(read_text(path, MOST_BYTES))
            self._entries = [(images / entry["image"], _turns(entry)) for entry in entries if "image" in entry]
        except (OSError, ValueError, KeyError, TypeError) as error:
            got = f"{type(error).__name__}: {error}"
            raise DataError(str(path), got=got, expected="a JSON list in LLaVA's format") from error
        if not self._entries:
            raise DataError(str(path), got="no conversation about an image", expected="at least one")
        self.size = size

    def __len__(self) -> int:
        return len(self._entries)

    def image(self, number: int) -> NDArray[np.uint8]:
        """See `Conversations`.

        Raises:
            ImageError: it cannot be read.
        """
        return prepare(self._entries[number][0], *self.size)

    def turns(self, number: int, rng: np.random.Generator) -> list[Turn]:
        """The conversation as it stands."""
        return self._entries[number][1]

    def caption(self, number: int) -> str:
        """The first answer."""
        return self._entries[number][1][0][1]


def _turns(entry: dict[str, Any]) -> list[Turn]:
    said: Sequence[dict[str, str]] = entry["conversations"]
    texts = [part["value"].replace(IMAGE_MARK, "").strip() for part in said]
    speakers = [part["from"] for part in said]
    if not texts or len(texts) % 2 or speakers != ["human", "gpt"] * (len(texts) // 2):
        raise ValueError(f"speakers {', '.join(speakers)}, where human and gpt take turns")
    return list(zip(texts[::2], texts[1::2], strict=True))
