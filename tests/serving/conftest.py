"""A real bundle behind the real application, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import vqrae
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.app import Service
from vqrae.serving.engine import Engine
from vqrae.serving.limits import Limits
from vqrae.serving.worker import Worker


@pytest.fixture(scope="package")
def tokenizer(exported: Path) -> Iterator[Tokenizer]:
    """The local call that the server's answers are compared with."""
    with vqrae.load(exported, threads=1) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="package")
def make_service(exported: Path, tokenizer: Tokenizer) -> Callable[..., Service]:
    def make(engine: Engine, **limits: float) -> Service:
        digest = sha256_file(exported / "manifest.json")
        return Service(engine, tokenizer.manifest, digest, Limits(**limits))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="package")
def worker(exported: Path) -> Iterator[Worker]:
    with Worker(vqrae.load(exported, threads=1), Limits(max_batch=8)) as worker:
        yield worker


@pytest.fixture(scope="package")
def client(worker: Worker, make_service: Callable[..., Service]) -> Iterator[TestClient]:
    service = make_service(worker, max_batch=8, max_body=100_000)
    with TestClient(service.app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def photograph(exported: Path) -> bytes:
    return (exported / "golden" / "source-00.png").read_bytes()
