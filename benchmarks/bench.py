"""One benchmark run: PyTorch first, then every bundle, all in the same interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vqrae.benchmarks.candidates.candidate import BundleCandidate, Candidate, Graph, bundle_subject
from vqrae.benchmarks.candidates.work import Work
from vqrae.benchmarks.lineup import Absent, Lineup
from vqrae.benchmarks.measure.conditions import ClockWatch, Contention, installed_versions
from vqrae.benchmarks.measure.footprint import Footprint, measure_footprint
from vqrae.benchmarks.measure.limit import Limit, Probe, machine_probes, measured_limit
from vqrae.benchmarks.measure.throughput import Handling, Throughput, measured_handling, measured_throughputs
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.rows import BenchResult, BenchRow, count_of
from vqrae.runtimes.latency import interleave, latency, speedup
from vqrae.runtimes.machine import this_machine

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, the steps done and the steps in all."""


def bench(
    bundles: Sequence[Path | str],
    checkpoint: Path | str | None = None,
    options: BenchOptions = BenchOptions(),
    *,
    command: str = "",
    progress: Progress = lambda stage, done, total: None,
) -> BenchResult:
    """Measure bundles and a checkpoint side by side: latency, start-up, memory, size, with fidelity in the same row.

    Every candidate is called in turn in every round, so that a drift of the machine meets all of them. A bundle's
    fidelity (token agreement, excess distortion, decode PSNR, gate) is not measured here: it is the bundle's evidence.
    That of `torch.compile` and the naive export is measured.

    Args:
        bundles: bundles' folders; one whose runtime is not here gets rows with `executed: false`.
        checkpoint: a PyTorch checkpoint's folder, or a preset's name for random weights; it makes the first row of each
            group, which the others are compared with. None leaves it out, and the first bundle takes its place.
        options: what is measured, and how.
        command: what the user typed, to be printed with the result.
        progress: called with what is being measured, the steps done and the steps in all.

    Raises:
        UsageError: nothing to measure, or a variant of a checkpoint without one.
        BundleError: a bundle, or a foreign file, is invalid.
        CheckpointError: the checkpoint is invalid.
        RuntimeUnavailable: none of the candidates can run here, or one that was asked for by name cannot.
    """
    lineup = Lineup(checkpoint=checkpoint, bundles=bundles, options=options)
    lineup.check()
    contention, clock = Contention(), ClockWatch()
    runs = [_completed(count, lineup, contention, clock, progress) for count in options.thread_counts]
    return BenchResult(
        machine=this_machine(),
        contention=contention.share,
        clock=clock.found,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=installed_versions(),
        command=command,
        rows=tuple(row for run in runs for row in run.rows),
        limits=tuple(limit for run in runs for limit in run.limits),
        throughputs=tuple(found for run in runs for found in run.throughputs),
        handling=runs[0].handling,  # which no runtime's threads touch
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one number of threads gave; see `BenchResult`."""

    rows: Sequence[BenchRow]
    limits: Sequence[Limit]
    throughputs: Sequence[Throughput]
    handling: Handling | None


def _completed(threads: int, lineup: Lineup, contention: Contention, clock: ClockWatch, progress: Progress) -> _Found:
    """Everything at one number of threads, which is fixed when a runtime loads a graph.

    One graph after the other, each opened and closed: all graphs of all rows at once would not fit into memory where
    the tokenizer is large.
    """
    rows: list[BenchRow] = []
    limits: list[Limit] = []
    throughputs: list[Throughput] = []
    handling: Handling | None = None
    options = lineup.options
    for graph in options.graphs:
        with ExitStack() as stack:
            candidates, absent = lineup.open(stack, threads, graph)
            run = _Run(
                options=options,
                threads=threads,
                candidates=candidates,
                absent=absent,
                probes=machine_probes(threads, stack) if options.limit else [],
                progress=progress,
                contention=contention,
                clock=clock,
            )
            rows += run.rows(graph)
            limits += run.limits
            if graph == "encode":
                throughputs += run.throughputs()
            handling = handling or run.handling()
    return _Found(rows=rows, limits=limits, throughputs=throughputs, handling=handling)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is measured, and how."""

    options: BenchOptions
    threads: int
    candidates: Sequence[Candidate]
    absent: Sequence[Absent]
    probes: Sequence[Probe]
    progress: Progress
    limits: list[Limit] = field(default_factory=list)
    contention: Contention
    clock: ClockWatch

    def rows(self, graph: Graph) -> Iterator[BenchRow]:
        """All rows of one graph. Start-up comes first, while nothing else of ours runs."""
        footprints = self._footprints(graph)
        for batch in self.options.batch_sizes:
            yield from self._timed_rows(graph, batch, footprints)
            for absent in self.absent:
                yield self._absent_row(graph, batch, absent)

    def throughputs(self) -> Iterator[Throughput]:
        """Of every bundle at every batch size that it takes, where photographs were given."""
        for batch in self.options.batch_sizes if self.options.photographs else ():
            able = [candidate for candidate in self._bundles() if candidate.supports("encode", batch)]
            streams, stage = self.options.load.streams, f"photographs to tokens at batch {batch}"
            options = self.options.loading(self.threads, streams)
            with ExitStack() as stack, self.contention.watch(), self.clock.watch():
                tokenizers = [stack.enter_context(candidate.streaming(options)) for candidate in able]
                yield from measured_throughputs(
                    tokenizers,
                    self.options.photographs,
                    batch=batch,
                    threads=self.threads,
                    streams=streams,
                    rounds=self.options.rounds,
                    progress=lambda done, total, stage=stage: self.progress(stage, done, total),  # type: ignore[misc]
                )

    def handling(self) -> Handling | None:
        """Of the photographs that were given, else of the first bundle's golden samples."""
        bundles = self._bundles()
        files = self.options.photographs or (bundles[0].tokenizer.bundle.golden().sources if bundles else ())
        if not files:
            return None
        return measured_handling(
            files,
            self.candidates[0].image_size,
            rounds=self.options.rounds,
            progress=lambda done, total: self.progress("around inference", done, total),
        )

    def _bundles(self) -> list[BundleCandidate]:
        return [candidate for candidate in self.candidates if isinstance(candidate, BundleCandidate)]

    def _footprints(self, graph: Graph) -> dict[Candidate, Footprint]:
        stage, footprints = f"{graph}: start-up and memory", {}
        for done, candidate in enumerate(self.candidates):
            self.progress(stage, done, len(self.candidates))
            if self.options.starts and candidate.supports(graph, 1) and (launch := candidate.launch(graph)):
                footprints[candidate] = measure_footprint(
                    launch, graph, threads=self.threads, starts=self.options.starts
                )
        self.progress(stage, len(self.candidates), len(self.candidates))
        return footprints

    def _timed_rows(self, graph: Graph, batch: int, footprints: dict[Candidate, Footprint]) -> Iterator[BenchRow]:
        """One group: its candidates take turns, and the first is what the others are compared with."""
        able = [candidate for candidate in self.candidates if candidate.supports(graph, batch)]
        seconds, limit = self._durations(graph, batch, able)
        for candidate in able:
            quantiles = latency(seconds[candidate])
            subject = candidate.subject(graph)
            columns = subject.columns() | asdict(quantiles)
            if candidate in footprints:
                first = None if candidate is able[0] else footprints.get(able[0])
                columns |= _footprint_columns(footprints[candidate], first, subject.weights_mb)
            if candidate is not able[0]:
                columns |= asdict(speedup(seconds[able[0]], seconds[candidate]))
            if limit is not None and subject.device == "cpu" and (work := candidate.work(graph, batch)):
                columns |= _work_columns(work, limit.least_ms(work), quantiles.p50_ms)
            yield BenchRow(
                **columns,
                executed=True,
                graph=graph,
                batch=batch,
                threads=self.threads,
                rounds=self.options.rounds,
                images_per_s=batch / quantiles.p50_ms * 1000,
            )

    def _durations(
        self, graph: Graph, batch: int, able: Sequence[Candidate]
    ) -> tuple[dict[Candidate, list[float]], Limit | None]:
        """Seconds of each candidate's calls, and the machine's limit in the same rounds, where it is measured."""
        if not able:
            return {}, None
        calls = {f"candidate {number}": candidate.call(graph, batch) for number, candidate in enumerate(able)}
        calls |= {f"probe {number}": probe.run for number, probe in enumerate(self.probes)}
        stage = f"{graph}: latency at batch {batch} on {count_of(self.threads, 'thread')}"
        with self.contention.watch(), self.clock.watch():
            seconds = interleave(
                calls,
                rounds=self.options.rounds,
                warmup=self.options.warmup,
                progress=lambda done, total: self.progress(stage, done, total),
            )
        of_probes = {probe: seconds[f"probe {number}"] for number, probe in enumerate(self.probes)}
        if of_probes:
            self.limits.append(measured_limit(self.probes, of_probes, graph=graph, batch=batch, threads=self.threads))
        limit = self.limits[-1] if of_probes else None
        return {candidate: seconds[f"candidate {number}"] for number, candidate in enumerate(able)}, limit

    def _absent_row(self, graph: Graph, batch: int, absent: Absent) -> BenchRow:
        return BenchRow(
            **bundle_subject(absent.bundle, None).columns(),
            executed=False,
            reason=absent.reason,
            graph=graph,
            batch=batch,
            threads=self.threads,
            rounds=0,
        )


def _footprint_columns(
    footprint: Footprint, first: Footprint | None, weights_mb: float | None
) -> dict[str, float | None]:
    """What a fresh process paid, beside the first row's; `first` is None in that row itself."""
    return {
        **asdict(footprint),
        "start_speedup": None if first is None else first.start_ms / footprint.start_ms,
        "memory_ratio": None if weights_mb is None else footprint.peak_rss_mb / weights_mb,
    }


def _work_columns(work: Work, least_ms: float | None, p50_ms: float) -> dict[str, float | None]:
    return {
        "gmacs": work.macs / 1e9,
        "int8_gmacs": work.int8_macs / 1e9,
        "traffic_mb": work.bytes_moved / 1e6,
        "peak_share": None if least_ms is None else least_ms / p50_ms,
    }
