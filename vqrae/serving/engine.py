"""What computes behind the server: a worker in this process, or replicas elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class Computed:
    """A result."""

    arrays: dict[str, NDArray[Any]]
    """By the names of the graph's outputs; only those that were asked for."""
    batch: int
    """Images that were computed together, those of other requests included."""


class Engine(Protocol):
    """Computes requests that were checked; any number of calls at once."""

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        """Run a graph on what its one input takes.

        Raises:
            Refusal: there is no room, no replica, or the runtime failed.
        """

    async def encode_file(self, content: bytes) -> Computed:
        """`indices` of an image file, int32 (1, h, w).

        Raises:
            Refusal: as for `infer`; 400 where it is no image, or too large a one.
        """

    async def ready(self) -> bool:
        """Whether requests can be computed now."""
