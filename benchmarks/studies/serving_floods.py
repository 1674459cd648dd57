"""Does a server answer while it is flooded, and is its memory back afterwards?

    python -m vqrae.benchmarks.studies.serving_floods BUNDLE --seconds 10

Starts `vqrae serve`, then, flood by flood, asks `/v2/health/live` all the time and has a client that behaves encode a
photograph over and over. Prints the longest wait, the answers of both, and the server's memory, as JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from vqrae.runtimes.errors import run_as_program

MEBIBYTE = 2**20
SLOW, IDLE, CHUNKED, JSON_BODIES = 128, 600, 24, 4
SETTLE_SECONDS = 5.0
"""After a flood, before memory is read."""


@contextmanager
def server(bundle: Path) -> Iterator[tuple[psutil.Process, int]]:
    """`vqrae serve` and its port."""
    command = [sys.executable, "-m", "vqrae", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None, "it is piped"  # noqa: S101
        url = process.stdout.readline().split()[0]
        try:
            yield psutil.Process(process.pid), int(url.rsplit(":", 1)[1])
        finally:
            process.send_signal(signal.SIGTERM)


def ask(port: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    """The status of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def slow_bodies(port: int, stop: threading.Event) -> None:
    """Bodies that never come."""
    head = b"POST /encode HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n1"
    _held(port, stop, SLOW, head)


def idle_connections(port: int, stop: threading.Event) -> None:
    """Connections that ask nothing."""
    _held(port, stop, IDLE, b"")


def chunked(port: int, stop: threading.Event) -> None:
    """Bodies without a length, of 30 MiB each, at once, over and over."""
    head = b"POST /encode HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    _repeated(CHUNKED, stop, lambda: _sent(port, head, b"%x\r\n%s\r\n" % (MEBIBYTE, bytes(MEBIBYTE)), 30))


def much_json(port: int, stop: threading.Event) -> None:
    """Bodies of 32 MiB of JSON."""
    body = b'{"inputs": [' + b"0," * (16 * MEBIBYTE) + b"0]}"
    head = f"POST /v2/models/encode/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    _repeated(JSON_BODIES, stop, lambda: _sent(port, head, body, 1))


FLOODS: dict[str, Callable[[int, threading.Event], None]] = {
    "slow bodies": slow_bodies,
    "idle connections": idle_connections,
    "chunked bodies": chunked,
    "JSON of 32 MiB": much_json,
}


def _held(port: int, stop: threading.Event, count: int, first: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(count):
            with suppress(OSError):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                connection.sendall(first)
        stop.wait()


def _repeated(count: int, stop: threading.Event, send: Callable[[], None]) -> None:
    def again() -> None:
        while not stop.is_set():
            send()

    threads = [threading.Thread(target=again) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _sent(port: int, head: bytes, part: bytes, times: int) -> None:
    """Send until the server refuses, which it may at any time."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        for _ in range(times):
            connection.sendall(part)
        connection.recv(65536)


def measure(name: str, process: psutil.Process, port: int, photograph: bytes, seconds: float) -> dict[str, Any]:
    """What a flood does to others."""
    before, stop = process.memory_info().rss, threading.Event()
    flood = threading.Thread(target=FLOODS[name], args=(port, stop))
    flood.start()
    waits, answered, peak = list[float](), list[int](), before
    encoding = threading.Thread(target=_encode, args=(port, photograph, stop, answered))
    encoding.start()
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        asked = time.monotonic()
        status = ask(port, "/v2/health/live")
        waits.append(time.monotonic() - asked if status == 200 else seconds)
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.02)
    stop.set()
    flood.join()
    encoding.join()
    time.sleep(SETTLE_SECONDS)
    return {
        "live_asked": len(waits),
        "live_longest_ms": round(1e3 * max(waits), 1),
        "encoded": answered.count(200),
        "not_encoded": len(answered) - answered.count(200),
        "rss_before_mb": round(before / 1e6),
        "rss_peak_mb": round(peak / 1e6),
        "rss_after_mb": round(process.memory_info().rss / 1e6),
    }


def _encode(port: int, photograph: bytes, stop: threading.Event, answered: list[int]) -> None:
    while not stop.is_set():
        answered.append(ask(port, "/encode", photograph))


def main() -> None:
    """Flood a server in each way, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each flood")
    options = parser.parse_args()
    photograph = (options.bundle / "golden" / "source-00.png").read_bytes()
    with server(options.bundle) as (process, port):
        for _ in range(20):  # warm
            ask(port, "/encode", photograph)
        for name in FLOODS:
            print(json.dumps({"flood": name, **measure(name, process, port, photograph, options.seconds)}), flush=True)


if __name__ == "__main__":
    run_as_program(main)
