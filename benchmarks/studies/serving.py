"""A server under load: more than it can do, good requests and bad ones, a replica killed meanwhile; and under floods.

    python -m vqrae.benchmarks.studies.serving soak BUNDLE --minutes 10
    python -m vqrae.benchmarks.studies.serving floods BUNDLE --seconds 10

Both start `vqrae serve` for themselves and print JSON. The soak ends with exit code 3 where an answer was lost or
wrong, a bad request was not refused, or memory grew. Flood by flood, `/v2/health/live` is asked all the time, and a
client that behaves encodes a photograph over and over: the longest wait, the answers of both, and the server's memory
are told.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vqrae.benchmarks.studies.serving_requests import Answer, Sample, encode_sample, samples
from vqrae.benchmarks.studies.study import StudyParser
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable, run_as_program
from vqrae.runtimes.tokenizer import Tokenizer, load

MEBIBYTE = 2**20
SLOW, IDLE, CHUNKED, JSON_BODIES = 128, 600, 24, 4
SETTLE_SECONDS = 5.0
"""After a flood, before memory is read."""
BAD_SHARE = 0.2
BODY_TIMEOUT = ("--body-timeout", "5")
KILL_AT = 0.1
"""Of the time: memory is then judged on what follows."""
MEMORY_GROWTH = 0.05
"""Between the second and the last quarter of the time; more is called growth."""
THROUGHPUT_S = 8.0
ROUNDS = 5
"""Of offline and served throughput, in turns."""
OFFLINE_BATCH = 32


class Tally:
    """What the clients saw; shared by their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[float] = []
        """Of good requests that were answered 200."""
        self.images = 0
        self.wrong: list[str] = []

    def count(self, sample: Sample, answer: Answer, seconds: float) -> None:
        """Judge an answer."""
        with self._lock:
            if answer.status == 0:
                self.outcomes["lost"] += 1
                self.wrong.append(f"{sample.name}: {answer.body.decode(errors='replace')[:200]}")
            elif answer.status == 503:
                self.outcomes["503"] += 1
            elif sample.is_right(answer):
                self.outcomes["good" if sample.images else "refused"] += 1
                self.images += sample.images
                if sample.images:
                    self.seconds.append(seconds)
            else:
                self.outcomes["wrong"] += 1
                self.wrong.append(f"{sample.name}: {answer.status} {answer.body[:200].decode(errors='replace')}")


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[tuple[psutil.Process, str]]:
    """`vqrae serve` in a process of its own, with more of its options, and its host and port."""
    command = [sys.executable, "-m", "vqrae", "serve", str(bundle), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None  # noqa: S101
    with process.stdout:
        line = process.stdout.readline()
        if "http://" not in line:
            raise RuntimeUnavailable("vqrae serve", got=f"exit code {process.wait()}", expected="a server")
        try:
            yield psutil.Process(process.pid), line.split()[0].removeprefix("http://")
        finally:
            process.terminate()
        if (code := process.wait(120)) != 0:
            raise GateFailure("vqrae serve", got=f"exit code {code} after SIGTERM", expected="0")


def clients(place: str, mix: Sequence[tuple[Sequence[Sample], float]], count: int, seconds: float) -> Tally:
    """Clients that each send one request after the other; `mix` is lists of requests and their shares."""
    tally, end = Tally(), time.monotonic() + seconds

    def run(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        connection = http.client.HTTPConnection(place, timeout=120)
        while time.monotonic() < end:
            (kind,) = chance.choices([kind for kind, _ in mix], [share for _, share in mix])
            sample = chance.choice(kind)
            started = time.monotonic()
            try:
                answer = sample.send(connection)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                answer = Answer(0, {}, repr(error).encode())
            tally.count(sample, answer, time.monotonic() - started)
            if answer.status == 503:
                time.sleep(float(answer.headers.get("retry-after", "1")))
        connection.close()

    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return tally


class Watch:
    """Memory of the server's processes every second; kills a replica once."""

    def __init__(self, server: psutil.Process, seconds: float) -> None:
        self._server, self._seconds = server, seconds
        self.front: list[float] = []
        self.replica: list[float] = []
        """MB of unshared memory."""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        started, killed = time.monotonic(), False
        while (elapsed := time.monotonic() - started) < self._seconds:
            replica = self._replica()
            if replica is not None and not killed and elapsed > KILL_AT * self._seconds:
                replica.kill()
                killed = True
            elif replica is not None:
                self.replica.append(_megabytes(replica))
            self.front.append(_megabytes(self._server))
            time.sleep(1)

    def _replica(self) -> psutil.Process | None:
        for child in self._server.children(recursive=True):
            try:
                if "ServeReplica" in " ".join(child.cmdline()):
                    return child
            except psutil.NoSuchProcess:
                continue
        return None


def _megabytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss) / 1e6
    except psutil.NoSuchProcess:
        return float("nan")


def growth(megabytes: Sequence[float]) -> dict[str, float]:
    """Memory in the second quarter of the time and in the last, and what it grew by."""
    values = np.asarray(megabytes)
    before, after = (float(np.nanmean(part)) for part in (np.array_split(values, 4)[1], np.array_split(values, 4)[3]))
    return {"second_quarter_mb": before, "last_quarter_mb": after, "growth": after / before - 1}


def offline_images_per_s(tokenizer: Tokenizer, seconds: float) -> float:
    """The same bundle in this process, in batches."""
    images = np.random.default_rng(1).integers(0, 256, (OFFLINE_BATCH, *tokenizer.image_size, 3), np.uint8)
    tokenizer.encode(images)
    started, count = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < seconds:
        tokenizer.encode(images)
        count += OFFLINE_BATCH
    return count / elapsed


def served_against_offline(tokenizer: Tokenizer, place: str) -> dict[str, float]:
    """Images a second through the server and in this process, and the median over rounds of their ratio."""
    mix = [([encode_sample(tokenizer, 8)], 1.0)]
    clients(place, mix, 6, 3)
    offline, served_ = [], []
    for _ in range(ROUNDS):
        offline.append(offline_images_per_s(tokenizer, THROUGHPUT_S))
        started = time.monotonic()
        images = clients(place, mix, 6, THROUGHPUT_S).images
        served_.append(images / (time.monotonic() - started))
    share = np.median(np.divide(served_, offline))
    return {"served": float(np.median(served_)), "offline": float(np.median(offline)), "share": float(share)}


def soak(bundle: Path, *, minutes: float, concurrency: int, threads: int) -> dict[str, Any]:
    """Run all of it; see the figures' names."""
    options = ("--threads", str(threads), "--max-queue", str(concurrency * 3 // 4), *BODY_TIMEOUT)
    with load(bundle, threads=threads) as tokenizer, served(bundle, *options) as (server, place):
        good, bad = samples(tokenizer)
        throughput = served_against_offline(tokenizer, place)
        with Watch(server, minutes * 60) as watch:
            tally = clients(place, [(good, 1 - BAD_SHARE), (bad, BAD_SHARE)], concurrency, minutes * 60)
    p50, p99 = np.percentile(tally.seconds, [50, 99]) if tally.seconds else (float("nan"),) * 2
    return {
        "bundle": bundle.name,
        "minutes": minutes,
        "clients": concurrency,
        "threads": threads,
        "outcomes": dict(tally.outcomes),
        "images_per_s": tally.images / (minutes * 60),
        "p50_ms": 1000 * p50,
        "p99_ms": 1000 * p99,
        "memory": {"front": growth(watch.front), "replica": growth(watch.replica)},
        "throughput": throughput,
        "wrong": tally.wrong[:20],
    }


def ask(port: int, path: str, body: bytes | None = None) -> int:
    """The status of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body)
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


def flooded(name: str, server: psutil.Process, port: int, photograph: bytes, seconds: float) -> dict[str, Any]:
    """What a flood does to others."""
    before, stop = server.memory_info().rss, threading.Event()
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
        peak = max(peak, server.memory_info().rss)
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
        "rss_after_mb": round(server.memory_info().rss / 1e6),
    }


def _encode(port: int, photograph: bytes, stop: threading.Event, answered: list[int]) -> None:
    while not stop.is_set():
        answered.append(ask(port, "/encode", photograph))


def main() -> None:
    """The command line."""
    parser = StudyParser("serving", __doc__)
    parser.add_argument("kind", choices=("soak", "floods"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10, help="of the soak")
    parser.add_argument("--clients", type=int, default=16, help="of the soak")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the soak")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each flood")
    options = parser.parse_args()
    if options.kind == "soak":
        figures = soak(options.bundle, minutes=options.minutes, concurrency=options.clients, threads=options.threads)
        print(json.dumps(figures, indent=2))
        _check_soak(figures)
        return
    photograph = (options.bundle / "golden" / "source-00.png").read_bytes()
    with served(options.bundle) as (server, place):
        port = int(place.rpartition(":")[2])
        for _ in range(20):  # warm
            ask(port, "/encode", photograph)
        for name in FLOODS:
            figures = flooded(name, server, port, photograph, options.seconds)
            print(json.dumps({"flood": name, **figures}), flush=True)


def _check_soak(figures: dict[str, Any]) -> None:
    memory, outcomes = max(it["growth"] for it in figures["memory"].values()), figures["outcomes"]
    if outcomes.get("lost") or outcomes.get("wrong") or memory > MEMORY_GROWTH:
        got, expected = f"{outcomes}, memory {memory:+.1%}", "nothing lost or wrong, memory flat"
        raise GateFailure("the soak", got=got, expected=expected)


if __name__ == "__main__":
    run_as_program(main)
