"""The nearest-code search on a GPU: fused, chunked and with the whole score matrix; time in turns, and peak memory.

    python -m vqrae.benchmarks.studies.search_gpu -o search-gpu.md

The matrix form is the float32 reference, TF32 off. Indices that differ from it are held to what rounding explains.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from vqrae.benchmarks.report.figures import significant
from vqrae.benchmarks.report.page import write_page
from vqrae.model.search import FUSED_CAPABILITY, chunked_nearest_codes, disagreement, search_kind
from vqrae.runtimes.errors import DeviceMissing, GateFailure, RuntimeUnavailable, run_as_program
from vqrae.runtimes.latency import interleave, latency, speedup

Search = Callable[[Tensor, Tensor], Tensor]

MATRIX = "matrix"
WHOLE_MATRIX_BYTES = 2**62
"""A limit that no score matrix reaches."""
HEADER = (
    "| search | p50 ms | p90 | speed | 95 % | peak MB | differing | largest gap |\n|---|--:|--:|--:|---|--:|--:|--:|\n"
)


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """One form of the search."""

    search: str
    p50_ms: float
    p90_ms: float
    speedup: float
    """Over the matrix form, the median of the rounds."""
    speedup_low: float
    speedup_high: float
    peak_mb: float
    """Most device memory that torch had allocated beyond the inputs, in 10⁶ bytes."""
    differing: int
    """Rows whose index is not the matrix form's."""
    largest_gap: float
    """`vqrae.model.search.Disagreement.gaps_D` at its largest; 0 where nothing differs."""


def search_rows(device: torch.device, features_ME: Tensor, codes_KE: Tensor, *, rounds: int) -> list[SearchRow]:
    """Time and compare the forms on inputs that lie on the device.

    Raises:
        GateFailure: a difference is larger than rounding explains.
    """
    searches = _searches()
    with _without_tf32():
        found = {name: search(features_ME, codes_KE) for name, search in searches.items()}
        peaks = {name: _peak_bytes(device, search, features_ME, codes_KE) for name, search in searches.items()}
        calls = {name: _synchronized(device, search, features_ME, codes_KE) for name, search in searches.items()}
        seconds = interleave(calls, rounds=rounds, warmup=3)
    rows = []
    for name, indices_M in found.items():
        different = disagreement(features_ME, codes_KE, found[MATRIX], indices_M)
        if not different.explained:
            got = f"a gap of {different.gaps_D.max().item():.2g}"
            raise GateFailure(
                f"the {name} search", got=got, expected=f"at most {different.bound:.2g}, as rounding gives"
            )
        quantiles, ratio = latency(seconds[name]), speedup(seconds[MATRIX], seconds[name])
        rows.append(
            SearchRow(
                search=name,
                p50_ms=quantiles.p50_ms,
                p90_ms=quantiles.p90_ms,
                speedup=ratio.speedup,
                speedup_low=ratio.speedup_low,
                speedup_high=ratio.speedup_high,
                peak_mb=peaks[name] / 1e6,
                differing=len(different.rows_D),
                largest_gap=different.gaps_D.max().item() if len(different.rows_D) else 0.0,
            )
        )
    return rows


def markdown(rows: list[SearchRow]) -> str:
    """The rows as a table."""
    lines = []
    for row in rows:
        times = (significant(row.p50_ms), significant(row.p90_ms), f"{row.speedup:.2f}×")
        interval = f"{row.speedup_low:.2f} to {row.speedup_high:.2f}"
        cells = (row.search, *times, interval, significant(row.peak_mb), f"{row.differing:,}", f"{row.largest_gap:.1e}")
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(lines)


def _searches() -> dict[str, Search]:
    from vqrae.model.fused_search import fused_nearest_codes  # imports Triton

    return {
        MATRIX: lambda z, c: chunked_nearest_codes(z, c, limit_bytes=WHOLE_MATRIX_BYTES),
        "chunked": chunked_nearest_codes,
        "fused": fused_nearest_codes,
    }


def _synchronized(device: torch.device, search: Search, features_ME: Tensor, codes_KE: Tensor) -> Callable[[], None]:
    def call() -> None:
        search(features_ME, codes_KE)
        torch.cuda.synchronize(device)

    return call


def _peak_bytes(device: torch.device, search: Search, features_ME: Tensor, codes_KE: Tensor) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    search(features_ME, codes_KE)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _without_tf32() -> Iterator[None]:
    """The reference multiplies in float32, whatever the process was set to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def gpu() -> torch.device:
    """The GPU that the fused search can run on.

    Raises:
        DeviceMissing: there is no NVIDIA GPU, or torch was built without CUDA.
        RuntimeUnavailable: the GPU is too old, or Triton is not installed.
    """
    if not torch.cuda.is_available():
        remedy = "run it on a machine with an NVIDIA GPU and a CUDA build of torch"
        raise DeviceMissing("CUDA", got=f"none for torch {torch.__version__}", expected="a GPU", remedy=remedy)
    device = torch.device("cuda", torch.cuda.current_device())
    if search_kind(device) != "fused":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise RuntimeUnavailable(
            "the fused search",
            got=f"compute capability {capability}, or no Triton",
            expected=f"an NVIDIA GPU of {'.'.join(map(str, FUSED_CAPABILITY))} or more, and Triton",
            remedy="install it with `pip install 'vqrae[triton]'`",
        )
    return device


def main() -> None:
    """Command line; prints JSON and, if asked, writes a Markdown page."""
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.studies.search_gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=128 * 256, help="features: 128 images of 256 tokens by default")
    parser.add_argument("--codes", type=int, default=16384)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="Markdown file")
    options = parser.parse_args()
    device = gpu()
    generator = torch.Generator(device).manual_seed(0)
    features_ME = torch.randn(options.rows, options.width, generator=generator, device=device)
    codes_KE = torch.randn(options.codes, options.width, generator=generator, device=device)
    rows = search_rows(device, features_ME, codes_KE, rounds=options.rounds)
    size = {name: getattr(options, name) for name in ("rows", "codes", "width")}
    name = torch.cuda.get_device_name(device)
    print(json.dumps({"gpu": name, **size, "searches": [asdict(row) for row in rows]}, indent=2))
    if options.output:
        title = (
            f"# The search on a GPU\n\n{name}: {options.rows:,} × {options.codes:,} × {options.width:,}, float32.\n\n"
        )
        write_page(options.output, title + markdown(rows), "vqrae.benchmarks.studies.search_gpu")


if __name__ == "__main__":
    run_as_program(main)
