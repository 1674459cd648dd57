"""Who takes part in a benchmark: what is asked for, and of that what can run here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vqrae.benchmarks.candidates.candidate import BundleCandidate, Candidate, Graph, runtime_title
from vqrae.benchmarks.candidates.foreign import ForeignCandidate
from vqrae.benchmarks.options import BenchOptions
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError, needing, unknown_name
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.registry import session_class

FLOATS: dict[str, tuple[Literal["fp32", "fp16"], ...]] = {"cpu": ("fp32",), "others": ("fp32", "fp16")}
"""Device -> precisions that PyTorch is measured in there."""
ENGINES = (".engine", ".plan", ".trt")
"""Suffixes that people give to engines, of TensorRT and of TensorRT-RTX alike."""
RTX_MAGIC = b"vtrt"
"""What engines of TensorRT-RTX begin with; all others are handed to TensorRT."""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A bundle that has no latency here: it gets rows that say why."""

    bundle: Bundle
    reason: str


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """What is asked for; see `bench`."""

    checkpoint: Path | str | None
    bundles: Sequence[Path | str]
    options: BenchOptions

    def check(self) -> None:
        """Refuse what makes no sense, before any work.

        Raises:
            UsageError: nothing to measure, or a variant of a checkpoint without one, or not on that device.
        """
        if self.checkpoint is None and not self.bundles and not self.options.foreign:
            raise UsageError("benchmark", got="nothing to measure", expected="a checkpoint or a bundle")
        for asked, name in ((self.options.compiled, "torch.compile"), (self.options.naive, "the naive export")):
            if asked and self.checkpoint is None:
                raise UsageError(name, got="no checkpoint", expected="the PyTorch model that it is made of")
        if self.options.naive and self.options.load.device not in (None, "cpu"):
            raise UsageError("the naive export", got=f"the device {self.options.load.device}", expected="cpu")

    def open(self, stack: ExitStack, threads: int, graph: Graph) -> tuple[list[Candidate], list[Absent]]:
        """Open what can run one graph here, PyTorch first; `stack` closes it.

        Raises:
            RuntimeUnavailable: nothing can, or what was asked for by name cannot.
        """
        candidates: list[Candidate] = []
        absent: list[Absent] = []
        for candidate in self._of_checkpoint(threads):
            candidates.append(stack.enter_context(candidate))
        for path in self.bundles:
            try:
                candidates.append(stack.enter_context(_timeable(path, self.options.loading(threads), graph)))
            except RuntimeUnavailable as error:
                bundle = Bundle.open(path, public_key=self.options.load.public_key)
                absent.append(Absent(bundle=bundle, reason=_absence(bundle, error)))
        size = self._foreign_size(candidates)
        for file in self.options.foreign:
            theirs = foreign_candidate(Path(file), threads=threads, size=size, trusted=self.options.load.trusted)
            candidates.append(stack.enter_context(theirs))
        if not candidates:
            raise RuntimeUnavailable(
                "benchmark", got=absent[0].reason, expected="at least one candidate that runs here"
            )
        return candidates, absent

    def _of_checkpoint(self, threads: int) -> Iterator[Candidate]:
        """PyTorch, and what else is made of its model. Each import brings torch."""
        if self.checkpoint is None:
            return
        from vqrae.benchmarks.candidates.pytorch import PyTorchCandidate

        size = image_size(self.bundles, self.options.load.public_key)
        device = self.options.load.device or "cpu"
        for compiled in (False, True) if self.options.compiled else (False,):
            for precision in FLOATS.get(device, FLOATS["others"]):
                yield PyTorchCandidate(
                    self.checkpoint, device=device, precision=precision, compiled=compiled, threads=threads, size=size
                )
        if self.options.naive:
            from vqrae.benchmarks.candidates.naive import NaiveCandidate

            yield NaiveCandidate(self.checkpoint, threads=threads, size=size)

    def _foreign_size(self, candidates: Sequence[Candidate]) -> tuple[int, int] | None:
        """What a foreign file's open axes are fed with: the size of the rows beside it."""
        if not self.options.foreign:
            return None
        return next((candidate.image_size for candidate in candidates), None)


def image_size(bundles: Sequence[Path | str], public_key: Path | None = None) -> tuple[int, int] | None:
    """The size (H, W) that the bundles were exported for, which PyTorch is then measured at; None without a bundle.

    Raises:
        UsageError: they are of several sizes.
    """
    rules = [Bundle.open(path, public_key=public_key).manifest.preprocessing for path in bundles]
    sizes = {(rule.height, rule.width) for rule in rules}
    if len(sizes) > 1:
        expected = "bundles of one size"
        raise UsageError("bundles", got=f"the image sizes {sorted(sizes)}", expected=expected, remedy="benchmark apart")
    return next(iter(sizes), None)


def checkpoint_of(bundles: Sequence[Path | str], source: str | None, public_key: Path | None = None) -> str:
    """Where the one checkpoint lies that all bundles were made of; `source` is where it lies now, None as at export.

    Raises:
        UsageError: they were made of several, or there is nothing at that place.
        CheckpointError: what is there is another checkpoint.
        RuntimeUnavailable: torch is not installed.
    """
    manifests = [Bundle.open(bundle, public_key=public_key).manifest for bundle in bundles]
    if len({manifest.checkpoint.weights_sha256 for manifest in manifests}) > 1:
        expected, remedy = "bundles of one", "benchmark them apart, or pass --bundles-only"
        raise UsageError("bundles", got="several checkpoints", expected=expected, remedy=remedy)
    with needing("export"):
        from vqrae.subject import reference_source

    return reference_source(manifests[0], source)


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


def _timeable(path: Path | str, options: LoadOptions, graph: Graph) -> BundleCandidate:
    """A bundle that runs here, on its runtime itself.

    Raises:
        RuntimeUnavailable: it does not, or an evaluator stands in for the runtime: parity is real then, latency is not.
    """
    candidate = BundleCandidate(path, options)
    try:
        graphs = candidate.tokenizer.manifest.graphs
        means = candidate.execution(graph if graph in graphs else next(iter(graphs))).means
    except BaseException:
        candidate.close()
        raise
    if means == "evaluator":
        candidate.close()
        raise RuntimeUnavailable("evaluated operation by operation on this machine, not timed")
    return candidate


def foreign_candidate(
    path: Path, *, threads: int, size: tuple[int, int] | None, trusted: bool = False
) -> ForeignCandidate:
    """The candidate of a file, by its suffix; arguments and errors as for `ForeignCandidate`.

    Args:
        path: the file.
        threads: CPU threads.
        size: what open height and width axes are fed with.
        trusted: whether code for the CPU that an engine brings may run.

    Raises:
        RuntimeUnavailable: its runtime is not installed, or an engine has no GPU here.
    """
    suffix = path.suffix.lower()
    if suffix in ENGINES:
        return _engine(path, threads=threads, size=size, trusted=trusted)
    if suffix == ".onnx":
        session_class("onnxruntime")  # says what to install
        from vqrae.benchmarks.candidates.foreign_onnx import ForeignOnnx

        return ForeignOnnx(path, threads=threads, size=size)
    if suffix == ".xml":
        session_class("openvino")
        from vqrae.benchmarks.candidates.foreign_ir import ForeignIr

        return ForeignIr(path, threads=threads, size=size)
    raise unknown_name(f"{path} suffix", suffix, (".onnx", ".xml", *ENGINES))


def _engine(path: Path, *, threads: int, size: tuple[int, int] | None, trusted: bool) -> ForeignCandidate:
    """Of the framework that built it, told by the file's first bytes."""
    if not path.is_file():
        raise BundleError(str(path), got="no such file", expected="an engine")
    with path.open("rb") as file:
        name = "tensorrt-rtx" if file.read(len(RTX_MAGIC)) == RTX_MAGIC else "tensorrt"
    session = session_class(name)  # says what to install
    from vqrae.benchmarks.candidates.foreign_engine import ForeignEngine
    from vqrae.runtimes.backends.tensorrt.session import EngineSession

    assert issubclass(session, EngineSession), "the registry has no other for it"  # noqa: S101
    return ForeignEngine(path, session.api(), threads=threads, size=size, trusted=trusted)
