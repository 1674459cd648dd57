"""What a fresh process pays until the first token: time to import, to load, to run once, and peak memory.

    python -m vqrae.benchmarks.measure.footprint BUNDLE --graph encode          # prints one line of JSON
    python -m vqrae.benchmarks.measure.footprint CHECKPOINT --graph encode --torch
    python -m vqrae.benchmarks.measure.footprint FILE.onnx --onnx

The clock starts before the process does, so the interpreter's own start is in `import_ms`. Files are as warm in the
disk cache as the run before left them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqrae.runtimes.load_options import LoadOptions

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """One start, or the medians of several."""

    import_ms: float
    """From the launch of the process until the runtime is imported."""
    load_ms: float
    """Until the graph is loaded and its input is ready; verification of the files included."""
    first_token_ms: float
    """The first call."""
    peak_rss_mb: float
    """Peak resident memory of the process, in 10⁶ bytes."""

    @property
    def start_ms(self) -> float:
        """From the launch to the first token."""
        return self.import_ms + self.load_ms + self.first_token_ms


def measure_footprint(launch: Sequence[str], graph: str, *, threads: int, starts: int, batch: int = 1) -> Footprint:
    """Start fresh processes, one after the other, and take the median of each figure.

    Args:
        launch: a candidate's `launch`.
        graph: `encode` or `decode`.
        threads: CPU threads that the runtime is given.
        starts: number of processes.
        batch: images of the one call.

    Raises:
        RuntimeUnavailable: a process failed; its last words are in the error.
    """
    runs = [_start(launch, "--graph", graph, "--threads", str(threads), "--batch", str(batch)) for _ in range(starts)]
    return Footprint(**{field.name: median(getattr(run, field.name) for run in runs) for field in fields(Footprint)})


def _start(launch: Sequence[str], *options: str) -> Footprint:
    from vqrae.runtimes.errors import RuntimeUnavailable

    command = [sys.executable, "-P", "-m", "vqrae.benchmarks.measure.footprint", *launch, *options]
    command += ["--launched", str(time.monotonic())]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if process.returncode:
        words = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeUnavailable(f"{launch[0]} in a fresh process", got=words[-1], expected="a first token")
    return Footprint(**json.loads(process.stdout))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure this process and print the figures."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    stamps = [started if options.launched is None else options.launched]
    stages = _pytorch_stages if options.torch else _onnx_stages if options.onnx else _bundle_stages
    for _ in stages(options):
        stamps.append(time.monotonic())
    import_ms, load_ms, first_token_ms = ((b - a) * 1000 for a, b in pairwise(stamps))
    footprint = Footprint(
        import_ms=import_ms, load_ms=load_ms, first_token_ms=first_token_ms, peak_rss_mb=peak_rss_bytes() / 1e6
    )
    print(json.dumps(asdict(footprint)))


def _bundle_stages(options: Namespace) -> Iterator[None]:
    """Import, load, first token: yields at the end of each."""
    from vqrae.benchmarks.candidates.candidate import BundleCandidate
    from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest
    from vqrae.runtimes.registry import session_class

    session_class(read_manifest(Path(options.path) / MANIFEST_FILE).runtime.name)  # imports the framework
    yield
    with BundleCandidate(options.path, replace(options.load, threads=options.threads)) as candidate:
        call = candidate.call(options.graph, options.batch)
        yield
        call()
        yield


def _pytorch_stages(options: Namespace) -> Iterator[None]:
    """Import, load, first token: yields at the end of each."""
    from vqrae.benchmarks.candidates.pytorch import PyTorchCandidate

    yield
    size = tuple(options.size) if options.size else None
    with PyTorchCandidate(options.path, threads=options.threads, size=size) as candidate:
        call = candidate.call(options.graph, options.batch)
        yield
        call()
        yield


def _onnx_stages(options: Namespace) -> Iterator[None]:
    """Import, load, first result of a bare graph with one input of fixed size: yields at the end of each."""
    import numpy as np
    import onnxruntime

    from vqrae.runtimes.backends.onnxruntime import DTYPES, session_options
    from vqrae.runtimes.load_options import LoadOptions

    yield
    native = session_options(LoadOptions(threads=options.threads))
    session = onnxruntime.InferenceSession(options.path, native, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    feeds = {taken.name: np.zeros(taken.shape, DTYPES[taken.type])}
    yield
    session.run(None, feeds)
    yield


def peak_rss_bytes() -> int:
    """VmHWM where there is one: unlike getrusage's figure it starts anew with the program, not with its parent."""
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _load_options(text: str) -> LoadOptions:
    from vqrae.runtimes.load_options import LoadOptions

    given = json.loads(text)
    paths = {name: Path(given[name]) for name in ("cache", "public_key") if name in given}
    return LoadOptions(**{**given, **paths})


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m vqrae.benchmarks.measure.footprint", description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a bundle's folder, with --torch a checkpoint's, with --onnx a file")
    parser.add_argument("--graph", choices=("encode", "decode"), default="encode")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--torch", action="store_true", help="open the path as a PyTorch checkpoint")
    parser.add_argument("--onnx", action="store_true", help="open the path as a bare ONNX graph")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="with --torch: not the trained size")
    parser.add_argument("--load", type=_load_options, default="{}", help="how a bundle is loaded: LoadOptions as JSON")
    parser.add_argument("--launched", type=float, help="the caller's time.monotonic() just before the launch")
    return parser


if __name__ == "__main__":
    main()
