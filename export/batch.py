"""The batch axis that a user asks for."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.manifest import BatchLimits

BatchKind = Literal["dynamic", "fixed", "range", "enumerated"]
MOST_BATCH = 2**16
"""More images than that are never computed at once."""


class Batch(Record):
    """The batch axis: `dynamic`, fixed `4`, a range `1:8:32` (least, best, most), or enumerated `1,2,4`."""

    kind: BatchKind = "dynamic"
    sizes: tuple[Annotated[int, Field(ge=1, le=MOST_BATCH)], ...] = ()

    @model_validator(mode="after")
    def _ascending(self) -> Batch:
        repeated = self.kind == "enumerated" and len({*self.sizes}) < len(self.sizes)
        if repeated or list(self.sizes) != sorted(self.sizes):
            raise ValueError("ascending sizes")
        return self

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read one of the forms above.

        Raises:
            UsageError: none of them.
        """
        kinds: tuple[tuple[str, BatchKind], ...] = (
            (r"dynamic", "dynamic"),
            (r"\d+", "fixed"),
            (r"\d+:\d+:\d+", "range"),
            (r"\d+(,\d+)+", "enumerated"),
        )
        for pattern, kind in kinds:
            if re.fullmatch(pattern, text):
                try:
                    return cls(kind=kind, sizes=tuple(map(int, re.findall(r"\d+", text))))
                except ValueError:  # pydantic's, or a number too long to be read
                    break
        expected = f"dynamic, a number up to {MOST_BATCH}, LEAST:BEST:MOST, or SIZE,SIZE,… in ascending order"
        raise UsageError("batch", got=repr(text), expected=expected)

    @property
    def axis(self) -> int | str:
        """The axis in a signature: a fixed size, or `batch`."""
        return self.sizes[0] if self.kind == "fixed" else "batch"

    def limits(self, default: BatchLimits | None = None) -> BatchLimits | None:
        """What the axis takes, for the manifest; `default` is the format's own meaning of `dynamic`."""
        match self.kind:
            case "range":
                least, best, most = self.sizes
                return BatchLimits(least=least, best=best, most=most)
            case "enumerated":
                return BatchLimits(least=self.sizes[0], most=self.sizes[-1], only=self.sizes)
            case "dynamic":
                return default
            case _:
                return None


DYNAMIC = Batch()
