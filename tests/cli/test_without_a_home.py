"""Ray without surprises: no home, a read-only root, and only the loopback network, or none (fault 18)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_shards import write_shards

INSIDE = """
set -e
mount --make-rprivate /
mount --bind {writable} {writable}
mount --bind / /
mount -o remount,bind,ro /
if [ {network} = lo ]; then ip link set lo up; fi
cd /
exec "$@"
"""
APART = ["unshare", "--mount", "--net", "sh", "-c"]
ENVIRONMENT = {"HOME": "/proc/none", "PATH": os.environ["PATH"], "TMPDIR": "/proc/none"}


def can_unshare() -> bool:
    probe = [
        "unshare",
        "--map-root-user",
        "--mount",
        "--net",
        "sh",
        "-c",
        "mount --make-rprivate / && ip link set lo up",
    ]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_unshare(), reason="no namespaces for this user")]


def command(writable: Path, network: str, *arguments: str | Path) -> list[str]:
    """A command of vqrae where only `writable` and /dev/shm can be written to."""
    script = INSIDE.format(writable=writable, network=network)
    return [*APART, script, "sh", sys.executable, *map(str, arguments)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=300)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "writable").mkdir()
    write_shards(tmp_path / "shards", 1, 3)
    return tmp_path


def test_tokenize(exported: Path, data: Path) -> None:
    out = data / "writable" / "out"
    arguments = ("-m", "vqrae", "tokenize", exported, data / "shards", "-o", out, "--threads", "1")
    on_disk = run(command(data / "writable", "lo", *arguments))
    assert on_disk.returncode == 1
    assert "expected a folder that only this user may change; make one" in on_disk.stderr
    assert "--sealing memory" in on_disk.stderr
    in_memory = run(command(data / "writable", "lo", *arguments, "--sealing", "memory"))
    assert in_memory.returncode == 0, in_memory.stderr
    assert in_memory.stdout.splitlines()[0] == f"{out}: 3 images (3 in tars)"
    rays = [line for line in in_memory.stderr.splitlines() if ".cc:" in line or line.startswith("[20")]
    assert not rays, "Ray's own lines"
    assert json.loads((out / "complete.json").read_text())["images"] == 3


@pytest.mark.parametrize("verb", ["tokenize", "serve"])
def test_no_network_at_all_is_said_at_once(verb: str, exported: Path, data: Path) -> None:
    more = [data / "shards", "-o", data / "writable" / "out"] if verb == "tokenize" else ["--port", "0"]
    done = run(command(data / "writable", "none", "-m", "vqrae", verb, exported, *more, "--sealing", "memory"))
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vqrae: ray: got 127.0.0.1: ")
    assert last.endswith("; bring it up: `ip link set lo up`")


ASKING = """
import json, signal, subprocess, sys, urllib.request
bundle, photograph = sys.argv[1:]
options = ["--port", "8123", "--sealing", "memory"]
server = subprocess.Popen([sys.executable, "-m", "vqrae", "serve", bundle, *options], stdout=subprocess.PIPE, text=True)
print(server.stdout.readline().strip(), flush=True)
with urllib.request.urlopen("http://127.0.0.1:8123/encode", open(photograph, "rb").read(), timeout=60) as answer:
    print(len(json.load(answer)["indices"]), flush=True)
server.send_signal(signal.SIGTERM)
print(server.wait(60), flush=True)
"""


def test_serve(exported: Path, data: Path) -> None:
    """Asked from within its own network."""
    done = run(command(data / "writable", "lo", "-c", ASKING, exported, exported / "golden" / "source-00.png"))
    started, rows, code = done.stdout.splitlines()
    assert started.startswith("http://127.0.0.1:8123 serves "), done.stderr
    assert (int(rows) > 1, code) == (True, "0"), done.stderr
