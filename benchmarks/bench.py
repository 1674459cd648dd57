"""One benchmark run: PyTorch first, then every bundle, all in the same interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from vqrae.benchmarks.candidates import GRAPHS, BundleCandidate, Candidate, Graph, bundle_subject
from vqrae.benchmarks.contention import Contention
from vqrae.benchmarks.footprint import Footprint, measure_footprint
from vqrae.benchmarks.rows import BenchResult, BenchRow, runtime_title
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError
from vqrae.runtimes.latency import MIN_ROUNDS, interleave, latency, speedup
from vqrae.runtimes.machine import this_machine

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, the steps done and the steps in all."""

PACKAGES = (
    "vqrae",
    "numpy",
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "coremltools",
    "tensorrt",
    "tensorrt-rtx",
)
"""Packages whose versions matter to a latency."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    graphs: tuple[Graph, ...] = GRAPHS
    batch_sizes: tuple[int, ...] = (1,)
    threads: int
    rounds: int
    warmup: int
    starts: int


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A bundle that has no latency here: it gets rows that say why."""

    bundle: Bundle
    reason: str


def run_benchmark(
    checkpoint: Path | str | None,
    bundles: Sequence[Path | str],
    *,
    graphs: Sequence[Graph] = GRAPHS,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    rounds: int = 30,
    warmup: int = 3,
    starts: int = 3,
    trusted: bool = False,
    command: str = "",
    progress: Progress = lambda stage, done, total: None,
) -> BenchResult:
    """Measure a checkpoint and bundles side by side.

    Fidelity (token agreement, excess distortion, decode PSNR, gate) is not measured here: it is the bundle's evidence.

    Args:
        checkpoint: a PyTorch checkpoint's folder, or a preset's name for random weights; it makes the first row of each
            group, which the others are compared with. None leaves it out, and the first bundle takes its place.
        bundles: bundles' folders; one whose runtime is not here gets rows with `executed: false`.
        graphs: what to measure.
        batch_sizes: images per call; each makes a group of rows.
        threads: CPU threads that every candidate is given; None means all cores that this process may use.
        rounds: timed calls of each candidate in each group; at least `latency.MIN_ROUNDS`.
        warmup: rounds before them that are thrown away.
        starts: fresh processes per candidate and graph, for start-up time and memory; 0 leaves that out.
        trusted: whether code that a bundle brings may be executed; see `Tokenizer.load`.
        command: what the user typed, to be printed with the result.
        progress: called with what is being measured, the steps done and the steps in all.

    Raises:
        UsageError: nothing to measure, or a number that makes no sense.
        BundleError: a bundle is invalid.
        CheckpointError: the checkpoint is invalid.
        RuntimeUnavailable: none of the candidates can run here.
    """
    plan = Plan(
        graphs=tuple(graphs),
        batch_sizes=tuple(batch_sizes),
        threads=this_machine().cores if threads is None else threads,
        rounds=rounds,
        warmup=warmup,
        starts=starts,
    )
    _check(plan, checkpoint, bundles)
    with ExitStack() as stack:
        candidates, absent = _open(stack, checkpoint, bundles, plan.threads, trusted=trusted)
        run = _Run(plan=plan, candidates=candidates, absent=absent, progress=progress)
        rows = tuple(row for graph in plan.graphs for row in run.rows(graph))
    return BenchResult(
        machine=this_machine(),
        contention=run.contention.share,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=installed_versions(),
        command=command,
        rows=rows,
    )


def installed_versions() -> dict[str, str]:
    """Versions of the installed ones among `PACKAGES`."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _check(plan: Plan, checkpoint: Path | str | None, bundles: Sequence[Path | str]) -> None:
    if checkpoint is None and not bundles:
        raise UsageError("benchmark", got="nothing to measure", expected="a checkpoint or a bundle")
    numbers = [
        ("threads", plan.threads, 1),
        ("rounds", plan.rounds, MIN_ROUNDS),
        ("warmup", plan.warmup, 0),
        ("starts", plan.starts, 0),
        *(("batch size", size, 1) for size in plan.batch_sizes),
    ]
    for name, number, least in numbers:
        if number < least:
            raise UsageError(name, got=str(number), expected=f"at least {least}")


def _open(
    stack: ExitStack, checkpoint: Path | str | None, bundles: Sequence[Path | str], threads: int, *, trusted: bool
) -> tuple[list[Candidate], list[Absent]]:
    """Open what can run here; `stack` closes it."""
    candidates: list[Candidate] = []
    absent: list[Absent] = []
    if checkpoint is not None:
        from vqrae.benchmarks.pytorch import PyTorchCandidate  # brings torch

        candidates.append(stack.enter_context(PyTorchCandidate(checkpoint, threads=threads, size=_image_size(bundles))))
    for path in bundles:
        try:
            candidates.append(stack.enter_context(_timeable(path, threads, trusted=trusted)))
        except RuntimeUnavailable as error:
            bundle = Bundle.open(path)
            absent.append(Absent(bundle=bundle, reason=_absence(bundle, error)))
    if not candidates:
        raise RuntimeUnavailable("benchmark", got=absent[0].reason, expected="at least one candidate that runs here")
    return candidates, absent


def _absence(bundle: Bundle, error: RuntimeUnavailable) -> str:
    """Why a bundle has no latency; of an engine also what is known of it all the same."""
    manifest = bundle.manifest
    engine, source = manifest.runtime.engine, manifest.evidence.source
    if engine is None:
        return str(error)
    text = f"compiled by {runtime_title(manifest.runtime.name)} {engine.version}, not executed ({error.got})"
    if source is None:
        return text
    return f"{text}; its ONNX graphs on {runtime_title(source.runtime)} {source.runtime_version}: {source.gate}"


def _image_size(bundles: Sequence[Path | str]) -> tuple[int, int] | None:
    """The size (H, W) that the bundles were exported for, which PyTorch is then measured at; None without a bundle.

    Raises:
        UsageError: they are of several sizes.
    """
    rules = [Bundle.open(path).manifest.preprocessing for path in bundles]
    sizes = {(rule.height, rule.width) for rule in rules}
    if len(sizes) > 1:
        expected = "bundles of one size"
        raise UsageError("bundles", got=f"the image sizes {sorted(sizes)}", expected=expected, remedy="benchmark apart")
    return next(iter(sizes), None)


def _timeable(path: Path | str, threads: int, *, trusted: bool) -> BundleCandidate:
    """A bundle that runs here, on its runtime itself.

    Raises:
        RuntimeUnavailable: it does not, or an evaluator stands in for the runtime: parity is real then, latency is not.
    """
    candidate = BundleCandidate(path, threads=threads, trusted=trusted)
    try:
        means = candidate.execution("encode").means
    except BaseException:
        candidate.close()
        raise
    if means == "evaluator":
        candidate.close()
        raise RuntimeUnavailable("evaluated operation by operation on this machine, not timed")
    return candidate


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is measured, and how."""

    plan: Plan
    candidates: Sequence[Candidate]
    absent: Sequence[Absent]
    progress: Progress
    contention: Contention = field(default_factory=Contention)

    def rows(self, graph: Graph) -> Iterator[BenchRow]:
        """All rows of one graph. Start-up comes first, while nothing else of ours runs."""
        footprints = self._footprints(graph)
        for batch in self.plan.batch_sizes:
            yield from self._timed_rows(graph, batch, footprints)
            for absent in self.absent:
                yield self._absent_row(graph, batch, absent)

    def _footprints(self, graph: Graph) -> dict[Candidate, Footprint]:
        stage, footprints = f"{graph}: start-up and memory", {}
        for done, candidate in enumerate(self.candidates):
            self.progress(stage, done, len(self.candidates))
            if candidate.launch is not None and self.plan.starts and candidate.supports(graph, 1):
                footprints[candidate] = measure_footprint(
                    candidate.launch, graph, threads=self.plan.threads, starts=self.plan.starts
                )
        self.progress(stage, len(self.candidates), len(self.candidates))
        return footprints

    def _timed_rows(self, graph: Graph, batch: int, footprints: dict[Candidate, Footprint]) -> Iterator[BenchRow]:
        """One group: its candidates take turns, and the first is what the others are compared with."""
        able = [candidate for candidate in self.candidates if candidate.supports(graph, batch)]
        calls = {str(number): candidate.call(graph, batch) for number, candidate in enumerate(able)}
        stage = f"{graph}: latency at batch {batch}"
        with self.contention.watch():
            seconds = interleave(
                calls,
                rounds=self.plan.rounds,
                warmup=self.plan.warmup,
                progress=lambda done, total: self.progress(stage, done, total),
            )
        for candidate, name in zip(able, calls, strict=True):
            quantiles = latency(seconds[name])
            columns = asdict(candidate.subject(graph)) | asdict(quantiles)
            if candidate in footprints:
                columns |= asdict(footprints[candidate])
            if candidate is not able[0]:
                columns |= asdict(speedup(seconds["0"], seconds[name]))
            yield BenchRow(
                **columns,
                executed=True,
                graph=graph,
                batch=batch,
                threads=self.plan.threads,
                rounds=self.plan.rounds,
                images_per_s=batch / quantiles.p50_ms * 1000,
            )

    def _absent_row(self, graph: Graph, batch: int, absent: Absent) -> BenchRow:
        return BenchRow(
            **asdict(bundle_subject(absent.bundle, None)),
            executed=False,
            reason=absent.reason,
            graph=graph,
            batch=batch,
            threads=self.plan.threads,
            rounds=0,
        )
