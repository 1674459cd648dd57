"""What holds a runtime's memory is a context manager: leaving it releases the memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Has a `close`, and calls it at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Release the memory; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
