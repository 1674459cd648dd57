"""A live server whose bundle is attacked on disk while requests go on, and while a replica starts again."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Sequence
from itertools import cycle, islice

import psutil

from vqrae.benchmarks.studies.attack_stage import (
    ERROR,
    ON_A_FILE,
    ON_ALL,
    RIGHT,
    THERE_AND_BACK,
    WRONG,
    Outcomes,
    Stage,
    attacking,
)
from vqrae.benchmarks.studies.serving import BODY_TIMEOUT, served
from vqrae.benchmarks.studies.serving_requests import Sample, samples
from vqrae.runtimes.tokenizer import load

MOMENTS = ("while it serves", "when a replica died")
ATTACK_S = 1.5
"""How long requests meet an attack while all replicas live."""
RESTART_S = 12.0
"""How long a replica that was killed meets it; one that can start has started by then."""
RECOVERY_S = 90.0
SERVED = ("--threads", "1", "--max-queue", "8", *BODY_TIMEOUT)
DIED = "died"
"""A replica, and not by our hand."""


class Clients:
    """Sends one good request after the other, and counts what comes back."""

    def __init__(self, place: str, good: Sequence[Sample]) -> None:
        self._place, self._good = place, good
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._seen: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def seen(self) -> list[str]:
        """The outcomes since the last call."""
        with self._lock:
            seen, self._seen = self._seen, []
        return seen

    def wait(self, seconds: float) -> list[str]:
        """The outcomes from now until something is answered, right or wrong, or for so long."""
        end, seen = time.monotonic() + seconds, self.seen()
        while not {RIGHT, WRONG} & set(seen) and time.monotonic() < end:
            time.sleep(0.05)
            seen += self.seen()
        return seen

    def _run(self) -> None:
        chance = random.Random(0)  # noqa: S311
        connection = http.client.HTTPConnection(self._place, timeout=60)
        while not self._ended.is_set():
            outcome = _outcome(chance.choice(self._good), connection)
            with self._lock:
                self._seen.append(outcome)
            if outcome != RIGHT:
                time.sleep(0.1)
        connection.close()


def _outcome(sample: Sample, connection: http.client.HTTPConnection) -> str:
    try:
        answer = sample.send(connection)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return f"lost ({type(error).__name__})"
    if answer.status != 200:
        return ERROR
    return RIGHT if sample.is_right(answer) else WRONG


def attack_server(stage: Stage, trials: int, *, key: bool, options: Sequence[str]) -> bool:
    """Attack, print what came of it, and say whether all is right.

    Args:
        stage: its bundle is served.
        trials: number of attacks; in every other one a replica is killed while it goes on.
        key: whether the server is given the public key.
        options: more of `vqrae serve`'s.
    """
    outcomes, kinds = Outcomes(), [*ON_A_FILE, *THERE_AND_BACK, *ON_ALL]
    plan = [(kind, moment) for kind in kinds for moment in MOMENTS]
    stage.chance.shuffle(plan)
    with load(stage.pristine[0], threads=1) as tokenizer:
        good, _ = samples(tokenizer)
    options = [*SERVED, *options, *(["--public-key", str(stage.public_key)] if key else [])]
    left = list(islice(cycle(plan), trials))
    while left:  # a server that does not recover is started again
        with served(stage.bundle, *options) as (server, place), Clients(place, good) as clients:
            recovered = True
            while left and recovered:
                kind, moment = left.pop()
                for outcome in _attacked(stage, kind, moment, server, clients):
                    outcomes.add(kind, moment, outcome)
                recovered = RIGHT in clients.wait(RECOVERY_S)
    print(outcomes.table(MOMENTS), end="")
    print(f"{stage.manifest.name}, served: {trials} attacks, answers {dict(outcomes.total)}")
    return outcomes.fine


def _attacked(stage: Stage, kind: str, moment: str, server: psutil.Process, clients: Clients) -> list[str]:
    """What clients saw of one attack, and after it until something was answered."""
    graph = stage.chance.choice(list(stage.manifest.graphs.values()))
    file, before = stage.chance.choice(stage.files_of(graph)), _replicas(server)
    clients.seen()
    seen: list[str] = []
    with attacking(stage, kind, file):
        if moment == MOMENTS[0]:
            time.sleep(ATTACK_S)
            seen += clients.seen()
        else:
            for replica in before:
                replica.kill()  # a descendant of the process that we started
            end = time.monotonic() + RESTART_S
            while not _replicas(server) - before and time.monotonic() < end:
                time.sleep(0.05)
            clients.seen()  # answered before the replica ended
            seen += clients.wait(RESTART_S) or [ERROR]  # while no replica can start, requests wait for one
    if moment == MOMENTS[0] and _replicas(server) != before:
        seen.append(DIED)
    stage.reset()
    return seen + clients.wait(RECOVERY_S)


def _replicas(server: psutil.Process) -> set[psutil.Process]:
    found = set()
    for child in server.children(recursive=True):
        try:
            if "ServeReplica" in " ".join(child.cmdline()):
                found.add(child)
        except psutil.NoSuchProcess:  # it ended between the two questions
            continue
    return found
