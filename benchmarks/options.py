"""What a benchmark measures, and how: one value for Python, for the command and for the studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vqrae.benchmarks.candidates.candidate import GRAPHS, Graph
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.latency import MIN_ROUNDS
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.machine import this_machine


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """See its fields.

    Raises:
        UsageError: a number that makes no sense.
    """

    graphs: Sequence[Graph] = GRAPHS
    """What to measure."""
    batch_sizes: Sequence[int] = (1,)
    """Images per call; each makes a group of rows."""
    threads: int | Sequence[int] | None = None
    """CPU threads that every candidate is given, or several numbers, one after the other; None means what `load` says,
    or all cores that this process may use."""
    rounds: int = 30
    """Timed calls of each candidate in each group; at least `latency.MIN_ROUNDS`."""
    warmup: int = 3
    """Rounds before them that are thrown away."""
    starts: int = 3
    """Fresh processes per candidate and graph, for start-up time and memory; 0 leaves that out."""
    limit: bool = False
    """Whether the machine's peak takes turns with the rows, and their arithmetic is counted."""
    photographs: Sequence[Path] = ()
    """Image files, which every bundle takes from disk to tokens on disk, at each batch size, in `load.streams` batches
    at once; latencies are of one."""
    compiled: bool = False
    """Whether `torch.compile` of the checkpoint takes part."""
    naive: bool = False
    """Whether the checkpoint takes part as it is traced without any folding, on ONNX Runtime."""
    foreign: Sequence[Path] = ()
    """Anyone's `.onnx`, `.xml` and `.engine` files with an image input; they stand among the rows of `encode`."""
    load: LoadOptions = LoadOptions()
    """How bundles are loaded. Its device is the checkpoint's too, then in FP32 and FP16; None is the CPU for the
    checkpoint, and each runtime's first choice for a bundle."""

    def __post_init__(self) -> None:
        numbers = [
            ("rounds", self.rounds, MIN_ROUNDS),
            ("warmup", self.warmup, 0),
            ("starts", self.starts, 0),
            *(("threads", count, 1) for count in self.thread_counts),
            *(("batch size", size, 1) for size in self.batch_sizes),
        ]
        for name, number, least in numbers:
            if number < least:
                raise UsageError(name, got=str(number), expected=f"at least {least}")

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """The numbers of CPU threads, each once."""
        given = self.load.threads or this_machine().cores if self.threads is None else self.threads
        return tuple(dict.fromkeys([given] if isinstance(given, int) else given))

    def loading(self, threads: int, streams: int = 1) -> LoadOptions:
        """How a bundle is loaded to be measured with so many threads."""
        return replace(self.load, threads=threads, streams=streams)
