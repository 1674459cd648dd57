"""What it takes to convert a checkpoint to each format: time, peak memory and size, each in a fresh process.

    python -m vqrae.benchmarks.studies.conversion base siglip2-so400m-256 -o docs/figures/conversion.md

Covered: the whole of `vqrae export`, so folding, tracing, converting, and verifying on a few photographs. With
`--work` a run that was stopped goes on, and the page shows all rows that are in that folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import product
from typing import Any

from vqrae.benchmarks.report.figures import significant
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.studies.runner import Figures, Task, opened_log, run
from vqrae.benchmarks.studies.study import StudyParser, table
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import VqraeError, run_as_program

FORMATS = ("onnx", "openvino", "coreml", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16")
TITLE = """# What a conversion takes

`vqrae export` in a fresh process, one format and precision at a time: folding, tracing, converting, and verifying on a
few photographs. Seconds are wall time, GB the process's peak resident memory (10⁹ bytes), graphs MB what the runtime
loads. A preset's name stands for that size with random weights.

"""
TITLES = ("checkpoint", "format", "precision", "seconds", "peak GB", "graphs MB", "parity")
PROGRAM = "from vqrae.cli.app import main; main()"


def conversion_row(checkpoint: str, format_name: str, precision: str, *, images: int) -> Figures:
    """Export in a fresh process, throw the bundle away, and tell what it took.

    Seconds are wall time from the process's start to its end; GB and MB are 10⁹ and 10⁶ bytes.

    Raises:
        VqraeError: the export failed; its last words are in the error.
    """
    with tempfile.TemporaryDirectory(prefix="vqrae-conversion-") as folder:
        arguments = ["export", checkpoint, "-o", folder, "--format", format_name, "--precision", precision]
        seconds, peak_bytes, printed = _measured([*arguments, "--images", str(images), "--json"])
        (row,) = json.loads(printed)
        graphs_mb = Bundle.open(row["bundle"]).graph_bytes / 1e6
    figures = {"seconds": seconds, "peak_gb": peak_bytes / 1e9, "graphs_mb": graphs_mb}
    return {"checkpoint": checkpoint, "format": format_name, "precision": precision, **figures, "parity": _parity(row)}


def _measured(arguments: list[str]) -> tuple[float, int, str]:
    """Run `vqrae`: wall time, peak resident memory, and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        command = [sys.executable, "-P", "-c", PROGRAM, *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=err)  # noqa: S603 - our own module
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            words = err.read().strip().splitlines() or [f"exit code {process.returncode}"]
            raise VqraeError(f"vqrae {' '.join(arguments)}", got=words[-1], expected="a bundle")
        unit = 1 if sys.platform == "darwin" else 1024
        return seconds, usage.ru_maxrss * unit, out.read()


def _parity(row: dict[str, Any]) -> str:
    """The verdict, and who gave it."""
    if not row["executed"]:
        return f"compiled, not executed; its ONNX on ONNX Runtime: {row['source_gate']}"
    return f"{row['gate']}, by the evaluator" if row["means"] == "evaluator" else str(row["gate"])


def main() -> None:
    """Command line; see the module."""
    parser = StudyParser("conversion", __doc__)
    parser.add_argument("checkpoint", nargs="+", help="folders, or presets' names for random weights")
    parser.add_argument("--format", choices=FORMATS, action="append", help="all if not given")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="both if not given")
    parser.add_argument("--images", type=int, default=2, help="photographs to verify on")
    parser.add_work()
    parser.add_output()
    options = parser.parse_args()
    tasks = [
        Task(" ".join(key), partial(conversion_row, *key, images=options.images), " ".join(key))
        for key in product(options.checkpoint, options.format or FORMATS, options.precision or PRECISIONS)
    ]
    with opened_log(options.work, {"images": options.images}) as log:
        run(tasks, log)
        found = [result.figures.values() for result in log.results().values()]
    rows = [[significant(value) if isinstance(value, float) else value for value in values] for values in found]
    write_page(options.output, TITLE + table(TITLES, rows, figures=4), options.module)


if __name__ == "__main__":
    run_as_program(main)
