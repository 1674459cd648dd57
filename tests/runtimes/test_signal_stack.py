from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from vqrae.runtimes.interrupts import SignalStack, kept_signal_stack

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a stack for signals is set as Linux has it")
CLOSED_AS_OPENED = """
import signal, sys, time
from pathlib import Path
import numpy as np
import openvino
from openvino import opset13 as ops
from vqrae.runtimes.backends.openvino import OpenVinoSession
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo, TensorSpec
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.load_options import LoadOptions

def told(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, told)
x = ops.parameter([-1, 4], np.float32, name="x")
y = ops.matmul(x, np.ones((4, 3), np.float32), transpose_a=False, transpose_b=False)
x.output(0).set_names({"x"})
y.output(0).set_names({"y"})
openvino.save_model(openvino.Model([y], [x], "graph"), "graph.xml", compress_to_fp16=False)
tensors = [TensorSpec(name=name, dtype="float32", shape=("batch", width)) for name, width in (("x", 4), ("y", 3))]
graph = GraphSpec(file="graph.xml", inputs=tensors[:1], outputs=tensors[1:])
runtime = RuntimeInfo(name="openvino", built_with={})
sessions = [OpenVinoSession.open(Sealed.in_place(Path()), graph, LoadOptions(), runtime) for _ in range(3)]
while sessions:
    sessions.pop(0).close()
print("ready", flush=True)
time.sleep(60)
"""


@linux_only
def test_what_a_library_sets_is_put_back() -> None:
    sigaltstack, other, kept, after = ctypes.CDLL(None).sigaltstack, SignalStack(), SignalStack(), SignalStack()
    memory = ctypes.create_string_buffer(1 << 17)
    other.address, other.size = ctypes.addressof(memory), len(memory)
    sigaltstack(None, ctypes.byref(kept))
    with kept_signal_stack():
        assert sigaltstack(ctypes.byref(other), None) == 0
    sigaltstack(None, ctypes.byref(after))
    assert (after.address, after.flags, after.size) == (kept.address, kept.flags, kept.size)


@linux_only
def test_sigterm_after_sessions_of_openvino_were_closed_is_no_segmentation_fault(tmp_path: Path) -> None:
    """On processors with AMX their stacks for signals were freed, and one of them was the thread's."""
    command = [sys.executable, "-c", CLOSED_AS_OPENED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.wait(60) == 143
