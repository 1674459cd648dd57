"""What a benchmark found: one row per candidate, graph and batch size, and the circumstances."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ValidationError

from vqrae.benchmarks.candidates.candidate import Graph, Kind, runtime_title
from vqrae.benchmarks.measure.conditions import BUSY, Clock
from vqrae.benchmarks.measure.limit import Limit
from vqrae.benchmarks.measure.throughput import Handling, Throughput
from vqrae.runtimes.errors import DataError
from vqrae.runtimes.evidence import GateVerdict
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.machine import Machine
from vqrae.runtimes.precision import Precision, PrecisionName


class BenchRow(Record):
    """Speed, size and fidelity of one candidate at one graph and batch size.

    MB are 10⁶ bytes; None is "not measured".
    """

    kind: Kind = "bundle"
    bundle: str
    """Name of the bundle, of the checkpoint in the rows made of it, or of the foreign file."""
    runtime: str
    runtime_version: str | None
    precision: PrecisionName | None
    """None in a foreign row, where it is not known."""
    int8_share: float | None = None
    """Of INT8: the share of the multiplications of both graphs that it does."""
    device: str | None
    """Where it really ran."""
    executed: bool
    """Whether it was timed here."""
    reason: str | None = None
    """Why it was not."""
    graph: Graph
    batch: int
    """Images per call."""
    threads: int
    """CPU threads that the runtime was given."""
    rounds: int
    """Timed calls behind the quantiles."""
    p10_ms: float | None = None
    p50_ms: float | None = None
    """Median latency of one call, in milliseconds, from arrays to arrays."""
    p90_ms: float | None = None
    p99_ms: float | None = None
    p50_low_ms: float | None = None
    """Lower end of the median's 95 % interval."""
    p50_high_ms: float | None = None
    """Upper end of the median's 95 % interval."""
    images_per_s: float | None = None
    """`batch` / median latency."""
    speedup: float | None = None
    """Median over rounds of the first row's latency / this row's; None in the first row itself."""
    speedup_low: float | None = None
    """Lower end of the median's 95 % interval."""
    speedup_high: float | None = None
    """Upper end of the median's 95 % interval."""
    gmacs: float | None = None
    """10⁹ multiply-adds of one call, counted in the graph itself; None if it cannot be, or the limit was left out."""
    int8_gmacs: float | None = None
    """Of these the ones in INT8."""
    traffic_mb: float | None = None
    """The least traffic of one call with memory: weights and inputs read once, outputs written once."""
    peak_share: float | None = None
    """The time that the machine's peak would take for this arithmetic / median latency, a fraction."""
    import_ms: float | None = None
    """Fresh process: from its launch until the runtime is imported."""
    load_ms: float | None = None
    """Fresh process: from there until the graph is loaded, verification included."""
    first_token_ms: float | None = None
    """Fresh process: the first call, batch 1."""
    peak_rss_mb: float | None = None
    """Fresh process: peak resident memory after that call."""
    weights_mb: float | None = None
    """What this graph's weights take: of a bundle its files, of PyTorch the weights and codes that this graph uses."""
    start_speedup: float | None = None
    """Fresh process: the first row's time from launch to first token / this row's; None in the first row itself."""
    memory_ratio: float | None = None
    """Fresh process: `peak_rss_mb` / `weights_mb`; beyond 1 are the runtime itself and its copies of the weights."""
    size_mb: float
    """On disk: the whole bundle, or the checkpoint."""
    token_agreement: float | None = None
    """Fraction of tokens equal to the reference's, from the bundle's evidence; of `torch.compile` and the naive export
    measured in this run, on the same photographs, and so are the next two."""
    excess_distortion: float | None = None
    """A fraction, from the bundle's evidence: 0.0001 is 0.01 %."""
    decode_psnr_db: float | None = None
    """Decoded images against the reference's, in dB, from the bundle's evidence."""
    gate: GateVerdict | Literal["reference", "unjudged"]
    """The parity verdict of the bundle's evidence; `reference` is what the others are judged by; `unjudged` is what is
    no bundle, and has no gate."""

    @property
    def label(self) -> str:
        """Runtime and precision, as a reader calls them: `ONNX Runtime FP32`; of a foreign row its file."""
        if self.precision is None:
            return self.bundle
        runtime = "torch.compile" if self.kind == "compiled" else runtime_title(self.runtime)
        runtime = f"naive {runtime}" if self.kind == "naive" else runtime
        return f"{runtime} {Precision(name=self.precision, int8_share=self.int8_share).title}"

    @property
    def gflops(self) -> float | None:
        """10⁹ operations per second, two to a multiply-add; None where they were not counted."""
        if self.gmacs is None or self.p50_ms is None:
            return None
        return 2 * self.gmacs / self.p50_ms * 1000

    @property
    def start_ms(self) -> float | None:
        """From the launch of a process to its first token, in milliseconds; None where it was not measured."""
        if self.import_ms is None or self.load_ms is None or self.first_token_ms is None:
            return None
        return self.import_ms + self.load_ms + self.first_token_ms

    @property
    def resolved(self) -> bool:
        """Whether the rounds tell this row's speed from the first row's."""
        if self.speedup_low is None or self.speedup_high is None:
            return False
        return not self.speedup_low <= 1 <= self.speedup_high


class BenchResult(Record):
    """A whole run."""

    machine: Machine
    contention: float | None
    """Fraction of all processors' time that other programs used during the rounds; None if unknown."""
    date: str
    """ISO 8601, UTC."""
    versions: dict[str, str]
    """Package -> version."""
    command: str
    """What to type to repeat it."""
    rows: tuple[BenchRow, ...]
    limits: tuple[Limit, ...] = ()
    """The machine's own in each group of rows; none where they were left out."""
    throughputs: tuple[Throughput, ...] = ()
    """Photographs on disk to tokens on disk; none where no photographs were given."""
    handling: Handling | None = None
    """What happens around inference; None where there was neither a photograph nor a bundle's golden sample."""
    clock: Clock | None = None
    """The processor's, during the rounds."""

    def to_json(self) -> str:
        """The result as JSON text, indented, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            DataError: not JSON, or not a benchmark's result.
        """
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the text"
            raise DataError(
                f"benchmark result, {field}", got=first["msg"], expected="what `vqrae bench --json` prints"
            ) from error

    @property
    def busy(self) -> bool:
        """Whether other programs took so much of the machine that no comparison is claimed."""
        return self.contention is not None and self.contention > BUSY

    def groups(self) -> list[tuple[str, list[BenchRow]]]:
        """Rows that may be compared, under their title: the same graph, batch size and threads."""
        groups: dict[str, list[BenchRow]] = {}
        for row in self.rows:
            groups.setdefault(f"{row.graph} · batch {row.batch}{self._threads_of(row)}", []).append(row)
        return list(groups.items())

    def footprint_groups(self) -> list[tuple[str, list[BenchRow]]]:
        """Rows under their graph's name, once per candidate: start-up, memory and size do not depend on the batch."""
        groups: dict[str, list[BenchRow]] = {}
        for _, rows in self.groups():
            groups.setdefault(f"{rows[0].graph}{self._threads_of(rows[0])}", rows)
        return list(groups.items())

    def _threads_of(self, row: BenchRow) -> str:
        """What a group's title says of threads, where it is not the same for all."""
        several = len({other.threads for other in self.rows}) > 1
        return f" · {count_of(row.threads, 'thread')}" if several else ""


def count_of(number: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def result_schema() -> dict[str, Any]:
    """The JSON schema of a `BenchResult`, for readers in other languages."""
    return BenchResult.model_json_schema()
