"""The real command, with Ray Serve behind it, as a process of its own."""

from __future__ import annotations

import concurrent.futures
import io
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from PIL import Image

from vqrae.runtimes.tokenizer import Tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
VQRAE = Path(sys.executable).with_name("vqrae")


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command once it serves, and its URL; ends it whatever happens."""
    command = [VQRAE, "serve", bundle, "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " serves " in line
        yield process, line.split()[0]
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def replica_of(process: subprocess.Popen[str]) -> psutil.Process:
    family = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in family if "ServeReplica" in " ".join(child.cmdline()))


def wait_until(url: str, status: int, seconds: float = 40.0) -> httpx2.Response:
    deadline = time.monotonic() + seconds
    while True:
        response = httpx2.get(f"{url}/v2/health/ready", timeout=10)
        if response.status_code == status or time.monotonic() > deadline:
            return response
        time.sleep(0.2)


@pytest.mark.slow
def test_a_server_from_start_to_end(exported: Path, tokenizer: Tokenizer, photograph: bytes, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    expected = tokenizer.encode(Image.open(io.BytesIO(photograph))).indices[0].tolist()
    with serving(bundle) as (process, url):
        family = psutil.Process(process.pid).children(recursive=True)
        examples_run(url, exported / "golden" / "source-00.png", tmp_path)

        def encode(_: int) -> httpx2.Response:
            return httpx2.post(f"{url}/encode", content=photograph, timeout=60)

        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(encode, number) for number in range(100)]
            while sum(answer.done() for answer in answers) < 20:
                time.sleep(0.01)
            killed = replica_of(process)
            killed.kill()
            statuses = [answer.result().status_code for answer in answers]
        assert set(statuses) <= {200, 503}
        assert statuses.count(503) <= 8, "more was lost than was inside"
        assert wait_until(url, 200).status_code == 200
        assert encode(0).json()["indices"] == expected

        # Another bundle in its place: what runs does not notice, and no replica starts with it.
        (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text() + "\n")
        assert encode(0).json()["indices"] == expected
        replica_of(process).kill()
        swapped = wait_until(url, 503)
        assert (swapped.status_code, swapped.json()) == (503, {"error": "no replica is ready"})

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [it for it in alive if it.is_running()]


def examples_run(url: str, photograph: Path, folder: Path) -> None:
    curl = subprocess.run([EXAMPLES / "client_curl.sh", photograph, url], cwd=folder, capture_output=True, text=True)
    assert curl.returncode == 0, curl.stdout
    with Image.open(folder / "reconstruction.png") as picture:
        assert picture.size == (32, 32)
    command = [sys.executable, EXAMPLES / "client_triton.py", url.removeprefix("http://")]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    assert finished.stdout == "(2, 4, 4) (2, 32, 32, 3)\n"


def test_a_bundle_that_is_broken_is_refused_before_anything_starts(exported: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    (bundle / "encode.onnx").write_bytes(b"x")
    finished = subprocess.run([VQRAE, "serve", bundle], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 5
    assert finished.stderr.startswith(f"vqrae: {bundle}/encode.onnx: got 1 bytes")
    assert finished.stderr.count("\n") == 1
