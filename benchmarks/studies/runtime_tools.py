"""What the runtimes themselves offer to time a graph: none of our own code between the clock and the runtime."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.errors import RuntimeUnavailable

Tool = Callable[[int], float]
"""Median latency, in milliseconds, of so many calls in a row."""
PROGRAM = "from openvino.tools.benchmark.main import main; main()"


def onnxruntime_loop(graph: Path, name: str, values: NDArray[Any], *, threads: int) -> Tool:
    """A plain loop around `InferenceSession.run`, with the options that our bundles are loaded with, written out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def loop(calls: int) -> float:
        session.run(None, {name: values})
        seconds = []
        for _ in range(calls):
            started = time.perf_counter()
            session.run(None, {name: values})
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds) * 1000

    return loop


def benchmark_app(graph: Path, name: str, values: NDArray[Any], *, properties: dict[str, Any], scratch: Path) -> Tool:
    """OpenVINO's own `benchmark_app`, a process for each slice, which loads the graph anew.

    Args:
        graph: the `.xml` file.
        name: of its input.
        values: what it is fed with; an open batch stays open, as in our sessions.
        properties: what the graph is compiled with.
        scratch: an empty folder for its input, configuration and report.

    Returns:
        The tool. It raises `RuntimeUnavailable` with the program's last words where it fails.
    """
    data, configuration = scratch / "values.npy", scratch / "properties.json"
    np.save(data, values, allow_pickle=False)
    configuration.write_text(json.dumps({"CPU": properties}), encoding="utf-8")
    arguments = [
        *("-m", str(graph), "-d", "CPU", "-load_config", str(configuration), "-api", "sync"),
        *("-i", f"{name}:{data}", "-data_shape", f"{name}[{','.join(map(str, values.shape))}]"),
        *("-report_type", "no_counters", "-json_stats", "-report_folder", str(scratch)),
    ]

    def app(calls: int) -> float:
        command = [sys.executable, "-P", "-c", PROGRAM, *arguments, "-niter", str(calls)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if done.returncode:
            told = (done.stdout + done.stderr).partition("[ ERROR ]")[2].partition("Traceback")[0]
            raise RuntimeUnavailable(f"benchmark_app on {graph}", got=told or f"exit code {done.returncode}")
        report = json.loads((scratch / "benchmark_report.json").read_text(encoding="utf-8"))
        return float(report["execution_results"]["latency (ms)"])

    return app
