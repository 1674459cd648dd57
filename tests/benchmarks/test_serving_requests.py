from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from running_server import running

import vqrae
from vqrae.benchmarks.studies.serving import Tally, clients, growth
from vqrae.benchmarks.studies.serving_requests import Answer, Sample, samples
from vqrae.serving.app import Service
from vqrae.serving.limits import Limits
from vqrae.serving.worker import Worker


@pytest.fixture(scope="module")
def soaked(exported: Path) -> Iterator[tuple[str, list[Sample], list[Sample]]]:
    """The address of a server, and requests for it."""
    limits = Limits(body_seconds=0.3)
    with vqrae.load(exported, threads=1) as tokenizer, Worker(vqrae.load(exported, threads=1), limits) as worker:
        service = Service(worker, tokenizer.manifest, tokenizer.bundle.sha256, limits)
        with running(service) as (_, port):
            yield f"127.0.0.1:{port}", *samples(tokenizer)


def sent(sample: Sample, place: str) -> Answer:
    with closing(http.client.HTTPConnection(place)) as connection:
        return sample.send(connection)


def test_every_good_request_gets_the_right_answer(soaked: tuple[str, list[Sample], list[Sample]]) -> None:
    place, good, _ = soaked
    for sample in good:
        answer = sent(sample, place)
        assert answer.status == 200
        assert sample.images
        assert sample.is_right(answer), sample.name


def test_every_bad_request_is_refused(soaked: tuple[str, list[Sample], list[Sample]]) -> None:
    place, _, bad = soaked
    for sample in bad:
        answer = sent(sample, place)
        assert 400 <= answer.status < 500, sample.name
        assert sample.is_right(answer), sample.name


def test_clients_count_what_they_see(soaked: tuple[str, list[Sample], list[Sample]]) -> None:
    place, good, bad = soaked
    tally = clients(place, [(good, 0.9), (bad, 0.1)], 4, 1.0)
    assert set(tally.outcomes) <= {"good", "refused"}
    assert tally.outcomes["good"] == len(tally.seconds)


def test_a_lost_answer_and_a_wrong_one_are_told_apart(soaked: tuple[str, list[Sample], list[Sample]]) -> None:
    _, good, bad = soaked
    tally = Tally()
    tally.count(good[0], Answer(0, {}, b"reset"), 1.0)
    tally.count(bad[0], Answer(200, {}, b"{}"), 1.0)
    tally.count(good[0], Answer(503), 1.0)
    assert dict(tally.outcomes) == {"lost": 1, "wrong": 1, "503": 1}
    assert [line.split(":")[0] for line in tally.wrong] == [good[0].name, bad[0].name]


def test_growth_compares_quarters() -> None:
    assert growth([9, 9, 2, 2, 7, 7, 3, 3])["growth"] == pytest.approx(0.5)


@pytest.mark.slow
def test_a_client_that_behaves_is_served_through_every_flood(exported: Path) -> None:
    """How fast is the module's to print; here, that all is asked and nothing of it refused."""
    command = [sys.executable, "-m", "vqrae.benchmarks.studies.serving", "floods", str(exported), "--seconds", "2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    floods = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(floods) == 4
    for flood in floods:
        assert flood["encoded"] > 0, flood
        assert flood["not_encoded"] == 0, flood
