"""A runtime and a format that the product does not have: ONNX Runtime behind a file of its own, written elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vqrae.export.formats.format import Format, FormatOptions
from vqrae.export.job import ExportJob, Written
from vqrae.runtimes.backends.onnxruntime import ERRORS, session_options
from vqrae.runtimes.errors import unknown_name
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.registry import RuntimeEntry
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.session import Execution, Session, closed_session, failed_run, refused_graph

MAGIC = b"a toy's graph\n"
RUNTIME = RuntimeEntry(
    title="Toy", backend="toy_runtime:ToySession", module="onnxruntime", extra="toy", distributions=("onnxruntime",)
)
FORMAT = "toy_runtime:ToyFormat"
WRITER = r"""
import importlib.util, json, pathlib, sys

assert not any(map(importlib.util.find_spec, ("torch", "vqrae", "onnx", "numpy")))
job = json.loads(sys.stdin.read())
sources, folder = pathlib.Path(job["sources"]), pathlib.Path(job["folder"])
graphs = {}
for name, graph in job["graphs"].items():
    content = b"a toy's graph\n" + (sources / graph["file"]).read_bytes()
    (folder / f"{name}.toy").write_bytes(content)
    graphs[name] = {**graph, "file": f"{name}.toy"}
runtime = {"name": "toy", "built_with": job["made_with"], "options": job["options"]}
print(json.dumps({"graphs": graphs, "precision": job["precision"], "runtime": runtime}))
"""
"""The whole writer, for a Python without any package: what it needs to know is in the job."""


class ToyOptions(FormatOptions):
    """Options of the toy."""

    note: str = ""
    """Kept in the manifest."""


class ToyFormat(Format):
    """Written in another process, where neither torch nor vqrae is."""

    runtime = "toy"
    takes = "onnx"
    scheme = "asymmetric"
    batches = ("dynamic", "fixed")
    options = ToyOptions

    def write(self, job: ExportJob) -> Written:
        command = [sys.executable, "-I", "-S", "-c", WRITER]
        done = subprocess.run(command, input=job.model_dump_json(), capture_output=True, text=True, check=True)
        return Written.model_validate_json(done.stdout)


class ToySession(Session):
    """ONNX Runtime, on the processor."""

    sealings = ("memory",)

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session

    @classmethod
    def open(cls, sealed: Sealed, graph: GraphSpec, options: LoadOptions, runtime: RuntimeInfo) -> Self:
        if options.device not in (None, "cpu"):
            raise unknown_name("device", options.device, ["cpu"])
        content, path = bytes(sealed.content(graph.file)), sealed.subject(graph.file)
        try:
            if not content.startswith(MAGIC):
                raise ValueError("no toy")
            return cls(onnxruntime.InferenceSession(content.removeprefix(MAGIC), session_options(options)))
        except (*ERRORS, ValueError) as error:
            raise refused_graph(path, "the toy", error) from error

    @classmethod
    def probe(cls) -> str:
        return "ran on cpu"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        session = self._session
        if session is None:
            raise closed_session("toy")
        names = [output.name for output in session.get_outputs()]
        try:
            return dict(zip(names, map(np.asarray, session.run(names, dict(feeds))), strict=True))
        except ERRORS as error:
            raise failed_run("toy", error) from error

    def close(self) -> None:
        self._session = None

    @property
    def execution(self) -> Execution:
        return Execution(runtime="toy", runtime_version="1", device="cpu", precision="the graph's own")
