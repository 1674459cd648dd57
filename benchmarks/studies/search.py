"""The search for the nearest code: its memory on a CPU, its time and memory on a GPU, and what it costs in `encode`.

    python -m vqrae.benchmarks.studies.search memory -o docs/explanation/search.md
    python -m vqrae.benchmarks.studies.search gpu -o search-gpu.md
    python -m vqrae.benchmarks.studies.search cost BUNDLE        # of `vqrae export --split`

Memory is the peak of a fresh process beyond what the inputs take. On a GPU the forms take turns, and the matrix form is
the float32 reference, TF32 off; indices that differ from it are held to what rounding explains. The cost in `encode` is
the whole graph against its features-only part, in turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from vqrae.benchmarks.candidates.candidate import sample_input
from vqrae.benchmarks.measure.footprint import peak_rss_bytes
from vqrae.benchmarks.report.figures import significant
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.studies.runner import Figures, Log, Task, opened_log, run
from vqrae.benchmarks.studies.study import StudyParser, table
from vqrae.model.search import FUSED_CAPABILITY, SCORE_LIMIT_BYTES, chunked_nearest_codes, disagreement, search_kind
from vqrae.runtimes.errors import BundleError, DeviceMissing, GateFailure, RuntimeUnavailable, run_as_program
from vqrae.runtimes.latency import interleave, latency, speedup
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.tokenizer import load

Search = Callable[[Tensor, Tensor], Tensor]

MATRIX = "matrix"
FORMS = ("chunked", MATRIX)
WHOLE_MATRIX_BYTES = 2**62
"""A limit that no score matrix reaches."""
BATCHES = (32, 128)
TOKENS, CODES, WIDTH = 256, 16384, 1536
MEMORY_TITLES = ("images × tokens", "search", "peak MB", "scores in all, MB")
GPU_TITLES = ("search", "p50 ms", "p90", "speed", "95 %", "peak MB", "differing", "largest gap")
TITLE = """# The search for the nearest code

Each token takes the code with the largest z·c − ½‖c‖², which is the nearest one; the lowest index among equals. At a
batch of 128 images and 16,384 codes the scores would be a matrix of 2.1 GB, made and read in every step. Nobody needs
it, only its largest entry in each row:

- **Chunked** (`vqrae/model/search.py`), on any device: 64 MiB of scores at a time, in one buffer that is used again and
  again. The chunks change no bit of a score against `torch.addmm` on the same rows.
- **Fused** (`vqrae/model/fused_search.py`), for float32 on NVIDIA GPUs of compute capability 8.0 or more with Triton
  (`pip install 'vqrae[triton]'`; a CUDA build of torch brings it): one kernel multiplies tile by tile in float32
  without TF32, and carries the best score and its index of each row in registers. Where rows are few, the codes are
  divided among more programs, and the winners are compared afterwards.

`vqrae.model.search.search_kind(device)` says which one runs. Two correct searches may differ where two codes are
equally near up to rounding: `vqrae.model.search.disagreement` gives the gap of every such row in float64, and the
bound that it must keep.

**Not executed**: the fused kernel was interpreted, where it gives the chunked search's indices up to near-ties that
rounding explains, and compiled for compute capability 8.0, 9.0, 10.0 and 12.0, where it uses no tensor core and spills
no register (`tests/vqrae/test_fused_search.py`); neither it nor its benchmark,
`python -m vqrae.benchmarks.studies.search gpu`, ever ran on a GPU.

On a CPU, tokens × 16,384 codes × 1,536 components, peak resident memory of a fresh process beyond its inputs. The peak
of the chunked form is the codes' squares, from which their norms are summed before the first chunk:

"""


def memory_rows(batches: Sequence[int], log: Log, *, width: int = WIDTH) -> list[tuple[str, ...]]:
    """Each form at each number of images, in fresh processes; errors as of `runner.run`."""
    tasks = [
        Task(f"{form}, {images} images", partial(memory, form, images, width), f"{form} {images}")
        for images, form in product(batches, FORMS)
    ]
    results, rows = run(tasks, log, workers=1, fresh=True), list[tuple[str, ...]]()
    for (images, form), result in zip(product(batches, FORMS), results.values(), strict=True):
        figures = (significant(result.figures["peak_mb"]), significant(images * TOKENS * CODES * 4 / 1e6))
        rows.append((f"{images} × {TOKENS}", form, *figures))
    return rows


def memory(form: str, images: int, width: int) -> Figures:
    """Search in this process, and tell by how much its peak memory grew, in 10⁶ bytes."""
    generator = torch.Generator().manual_seed(0)
    features_ME = torch.randn(images * TOKENS, width, generator=generator)
    codes_KE = torch.randn(CODES, width, generator=generator)
    chunked_nearest_codes(features_ME[:16], codes_KE[:16])  # what the first call sets up is none of the search's
    before = peak_rss_bytes()
    limit_bytes = SCORE_LIMIT_BYTES if form == "chunked" else WHOLE_MATRIX_BYTES
    chunked_nearest_codes(features_ME, codes_KE, limit_bytes=limit_bytes)
    return {"peak_mb": (peak_rss_bytes() - before) / 1e6}


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


def gpu_table(rows: Sequence[SearchRow]) -> str:
    """The rows as a table."""
    cells = [
        (
            row.search,
            significant(row.p50_ms),
            significant(row.p90_ms),
            f"{row.speedup:.2f}×",
            f"{row.speedup_low:.2f} to {row.speedup_high:.2f}",
            significant(row.peak_mb),
            f"{row.differing:,}",
            f"{row.largest_gap:.1e}",
        )
        for row in rows
    ]
    return table(GPU_TITLES, cells, figures=7)


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


def search_cost(bundle: Path, *, threads: int | None, rounds: int) -> dict[str, float]:
    """Latency of `encode` over latency of `encoder` at batch 1, the median over rounds with its 95 % interval.

    Raises:
        BundleError: the bundle was exported without `--split`.
    """
    with load(bundle, threads=threads) as tokenizer:
        if "encoder" not in tokenizer.manifest.graphs:
            raise BundleError(str(bundle), got="no graph encoder", expected="one", remedy="export with --split")
        images = sample_input(
            "encode", 1, tokenizer.image_size, grid=tokenizer.grid, codebook_size=tokenizer.codebook_size
        )
        sessions = {name: tokenizer.session(name) for name in ("encode", "encoder")}
        calls = {name: lambda session=session: session.run({"images": images}) for name, session in sessions.items()}
        seconds = interleave(calls, rounds=rounds, warmup=3)
    ratio = speedup(seconds["encode"], seconds["encoder"])
    return {
        "encode_p50_ms": latency(seconds["encode"]).p50_ms,
        "encoder_p50_ms": latency(seconds["encoder"]).p50_ms,
        "ratio": ratio.speedup,
        "ratio_low": ratio.speedup_low,
        "ratio_high": ratio.speedup_high,
    }


def main() -> None:
    """Command line; see the module."""
    parser = StudyParser("search", __doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, parser_class=argparse.ArgumentParser)
    of_memory, of_gpu, of_cost = (kinds.add_parser(name) for name in ("memory", "gpu", "cost"))
    of_memory.add_argument("--images", type=int, action="append", help="batch size; 32 and 128 if not given")
    of_gpu.add_argument("--rows", type=int, default=128 * TOKENS, help="features: 128 images of 256 tokens by default")
    of_gpu.add_argument("--codes", type=int, default=CODES)
    of_gpu.add_argument("--width", type=int, default=WIDTH)
    of_cost.add_argument("bundle", type=Path, help="exported with --split")
    of_cost.add_argument("--threads", type=int)
    for each in (of_gpu, of_cost):
        each.add_argument("--rounds", type=int, default=20)
    for each in (of_memory, of_gpu):
        each.add_argument("-o", "--output", type=Path, help="Markdown file")
    options = parser.parse_args()
    if options.kind == "cost":
        result = search_cost(options.bundle, threads=options.threads, rounds=options.rounds)
        print(json.dumps({"bundle": str(options.bundle), "machine": str(this_machine()), **result}, indent=2))
        return
    text = _gpu_page(options) if options.kind == "gpu" else _memory_page(options.images or BATCHES)
    if options.output:
        write_page(options.output, text, options.module)


def _memory_page(batches: Sequence[int]) -> str:
    with opened_log(None, {}) as log:
        found = table(MEMORY_TITLES, memory_rows(batches, log), figures=2)
    print(found)
    return TITLE + found


def _gpu_page(options: argparse.Namespace) -> str:
    device = gpu()
    generator = torch.Generator(device).manual_seed(0)
    features_ME = torch.randn(options.rows, options.width, generator=generator, device=device)
    codes_KE = torch.randn(options.codes, options.width, generator=generator, device=device)
    rows = search_rows(device, features_ME, codes_KE, rounds=options.rounds)
    size = {name: getattr(options, name) for name in ("rows", "codes", "width")}
    name = torch.cuda.get_device_name(device)
    print(json.dumps({"gpu": name, **size, "searches": [asdict(row) for row in rows]}, indent=2))
    sizes = f"{options.rows:,} × {options.codes:,} × {options.width:,}"
    return f"# The search on a GPU\n\n{name}: {sizes}, float32.\n\n{gpu_table(rows)}"


if __name__ == "__main__":
    run_as_program(main)
