"""What memory the nearest-code search takes on a CPU: in chunks, against the whole score matrix.

    python -m vqrae.benchmarks.studies.search_memory -o docs/explanation/search.md

Covered: peak resident memory of a fresh process, beyond what the inputs take. Not covered: GPUs, see `search_gpu`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vqrae.benchmarks.report.figures import significant
from vqrae.benchmarks.report.page import write_page
from vqrae.runtimes.errors import VqraeError, run_as_program

FORMS = ("chunked", "matrix")
BATCHES = (32, 128)
TOKENS, CODES, WIDTH = 256, 16384, 1536
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
`python -m vqrae.benchmarks.studies.search_gpu`, ever ran on a GPU.

On a CPU, tokens × 16,384 codes × 1,536 components, peak resident memory of a fresh process beyond its inputs. The peak
of the chunked form is the codes' squares, from which their norms are summed before the first chunk:

"""
HEADER = "| images × tokens | search | peak MB | scores in all, MB |\n|--:|---|--:|--:|\n"


def memory_row(form: str, images: int, width: int = WIDTH) -> str:
    """Search in a fresh process, as a line of the table.

    Raises:
        VqraeError: the process failed; its last words are in the error.
    """
    sizes = ("--form", form, "--images", str(images), "--width", str(width))
    command = [sys.executable, "-P", "-m", "vqrae.benchmarks.studies.search_memory", *sizes]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if process.returncode:
        words = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise VqraeError(f"the {form} search of {images} images", got=words[-1], expected="indices")
    figures = json.loads(process.stdout)
    scores_mb = images * TOKENS * CODES * 4 / 1e6
    cells = (f"{images} × {TOKENS}", form, significant(figures["peak_mb"]), significant(scores_mb))
    return f"| {' | '.join(cells)} |\n"


def measure(form: str, rows: int, codes: int, width: int) -> dict[str, float]:
    """Search in this process, and tell by how much its peak memory grew, in 10⁶ bytes."""
    import torch

    from vqrae.benchmarks.measure.footprint import peak_rss_bytes
    from vqrae.model.search import SCORE_LIMIT_BYTES, chunked_nearest_codes

    generator = torch.Generator().manual_seed(0)
    features_ME = torch.randn(rows, width, generator=generator)
    codes_KE = torch.randn(codes, width, generator=generator)
    chunked_nearest_codes(features_ME[:16], codes_KE[:16])  # what the first call sets up is none of the search's
    before = peak_rss_bytes()
    chunked_nearest_codes(features_ME, codes_KE, limit_bytes=SCORE_LIMIT_BYTES if form == "chunked" else 2**62)
    return {"peak_mb": (peak_rss_bytes() - before) / 1e6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; writes a page, or measures one form in this process and prints JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.studies.search_memory", description=__doc__.splitlines()[0]
    )
    parser.add_argument("-o", "--output", type=Path, help="Markdown file")
    parser.add_argument("--form", choices=FORMS, help="measure this one in this process")
    parser.add_argument("--images", type=int, action="append", help="batch size; 32 and 128 if not given")
    parser.add_argument("--width", type=int, default=WIDTH, help="components of a code, with --form")
    options = parser.parse_args(arguments)
    batches = options.images or BATCHES
    if options.form:
        print(json.dumps(measure(options.form, batches[0] * TOKENS, CODES, options.width)))
        return
    rows = []
    for images in batches:
        for form in FORMS:
            rows.append(memory_row(form, images))
            print(rows[-1], end="", flush=True)
    if options.output:
        write_page(options.output, TITLE + HEADER + "".join(rows), "vqrae.benchmarks.studies.search_memory")


if __name__ == "__main__":
    run_as_program(main)
