"""Which part of the work is this process's, when several train together."""

from __future__ import annotations

from dataclasses import dataclass

from vqrae.runtimes.errors import UsageError


@dataclass(frozen=True)
class Share:
    """One of `count` processes that train one model together."""

    rank: int = 0
    """Number of this process, from 0."""
    count: int = 1
    """How many processes there are."""

    def rows(self, batch: range | int) -> range:
        """This process's rows of a batch: neighbours, as many as every other process has.

        Args:
            batch: the rows of the batch, or how many there are.

        Raises:
            UsageError: the processes cannot have the same number of rows.
        """
        whole = range(batch) if isinstance(batch, int) else batch
        each, left_over = divmod(len(whole), self.count)
        if left_over:
            expected = f"a multiple of the {self.count} processes"
            raise UsageError("batch", got=f"{len(whole)} images", expected=expected, remedy="change one of the two")
        return whole[self.rank * each : (self.rank + 1) * each]
