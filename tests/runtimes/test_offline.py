"""Nothing that loads or runs a bundle asks a network, or tells one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SILENCING = {"CI", "GITHUB_ACTIONS", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "TF_BUILD"}
FLOORS = ("runtimes", "export", "calibration", "benchmarks", "vqrae")

LISTEN = """
import sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
"""
RUN = """
import time, vqrae
from vqrae.runtimes.selftest import selftest
with vqrae.load(sys.argv[1]) as tokenizer:
    selftest(tokenizer)
"""
PROBE = """
import time
from vqrae.runtimes.registry import session_class
session_class(sys.argv[1]).probe()
"""
REPORT = "time.sleep(0.5); print(asked)"  # a sender may be a thread


def heard(code: str, argument: object, home: Path) -> str:
    """The network calls of a fresh process with an empty home that does not look like CI, where some keep silent."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY")
    }
    environment |= {"HOME": str(home), "USERPROFILE": str(home)}
    command = [sys.executable, "-c", LISTEN + code + REPORT, str(argument)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[-1]


def test_a_selftest_asks_no_network(pristine_bundle: Path, tmp_path: Path) -> None:
    assert heard(RUN, pristine_bundle, tmp_path) == "[]"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "private copies are gone by now"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_asks_no_network(runtime: str, tmp_path: Path) -> None:
    assert heard(PROBE, runtime, tmp_path) == "[]"
    assert list(tmp_path.iterdir()) == [], "no client's id was written"


def test_a_call_would_be_heard(tmp_path: Path) -> None:
    code = "import socket, time\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass\n"
    assert heard(code, "", tmp_path) != "[]"


def test_openvino_is_imported_in_one_place() -> None:
    """Elsewhere it would send what it sends on import."""
    sources = [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")]
    importing = [path.name for path in sources if re.search(r"^ *(import|from) openvino\b", path.read_text(), re.M)]
    assert importing == ["openvino_library.py"]


def test_a_users_own_choice_about_telemetry_is_kept() -> None:
    code = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = 'true'; import vqrae; print(os.environ[sys.argv[1]])"
    command = [sys.executable, "-c", f"import sys; {code}", "ORT_DISABLE_TELEMETRY"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "true\n"
