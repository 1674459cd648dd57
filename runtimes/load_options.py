"""How a bundle is to be loaded: one value for Python, for the command's options, and for a worker elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vqrae.runtimes.errors import UsageError

Sealing = Literal["disk", "memory"]
"""Where the bytes are kept while a runtime loads them: in a private folder, or in memory, which costs twice as much of
it (a runtime insists on a copy of its own), but no disk."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Where and how a bundle's graphs run, and who must have signed it. Can be pickled.

    Raises:
        UsageError: `threads` or `streams` is not positive, or `cache` is a file.
    """

    device: str | None = None
    """One that the bundle's runtime knows, such as `cpu` or `cuda`; never replaced by another one silently. None is the
    runtime's own first choice."""
    threads: int | None = None
    """CPU threads, where the CPU computes; None leaves it to the runtime. GPUs, Core ML and its evaluator have none."""
    streams: int = 1
    """Chunks of a large batch that go on at once: 1 for the least latency, more for throughput."""
    cache: Path | None = None
    """Folder where a runtime that compiles on load may keep what it compiled; what somebody else put there is not used.
    None keeps nothing."""
    sealing: Sealing | None = None
    """Where the bytes lie while a runtime loads them, for it never reads the bundle's own files, which others may
    change: `disk` is a private copy in a folder of this user's, deleted once it is loaded; `memory` takes twice a
    graph's size of it, and no disk. None is `disk`, or all that the runtime has."""
    trusted: bool = False
    """Whether code that the bundle brings may be executed; only engines that later versions of TensorRT load bring
    any."""
    public_key: Path | None = None
    """File of the key that must have signed the bundle, whose signature lies beside it, as `BUNDLE.sig`; all of the
    bundle is then verified before any of it is used. None checks no signature."""

    def __post_init__(self) -> None:
        for name, number in (("threads", self.threads), ("streams", self.streams)):
            if number is not None and number < 1:
                raise UsageError(name, got=str(number), expected="at least 1")
        if self.cache is not None and self.cache.exists() and not self.cache.is_dir():
            raise UsageError(f"cache {self.cache}", got="a file", expected="a folder, or a name for one")
