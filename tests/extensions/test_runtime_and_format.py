"""A runtime and a format that the product does not have: `support/toy_runtime.py`, and a row in each of two tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from session_template import SessionTemplate
from toy_runtime import FORMAT, MAGIC, RUNTIME

from vqrae.cli.app import main
from vqrae.export.build import BundleBuilder
from vqrae.export.comparison import verify_bundles
from vqrae.export.formats import FORMATS, target
from vqrae.export.job import ExportJob, Written
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.registry import RUNTIMES


@pytest.fixture(scope="module", autouse=True)
def rows() -> Iterator[None]:
    """In this process only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "toy", RUNTIME)
        patch.setitem(FORMATS, "toy", FORMAT)
        yield


class TestToyRuntime(SessionTemplate):
    format_name = "toy"
    precision = "fp32"
    devices = "device: got 'tpu'; expected one of cpu"


def test_a_job_is_written_without_torch_and_without_vqrae(builder: BundleBuilder, tmp_path: Path) -> None:
    """By a Python that has no packages at all; export, its gate and verify take what came of it."""
    row = builder.build(target("toy", options={"note": "hello"}), tmp_path)
    bundle = Bundle.open(row.bundle)
    assert (row.runtime, row.gate, row.misses, row.executed) == ("toy", "pass", (), True)
    assert bundle.manifest.runtime.options == {"note": "hello"}
    assert {graph.file for graph in bundle.manifest.graphs.values()} == {"encode.toy", "decode.toy"}
    assert (bundle.path / "encode.toy").read_bytes().startswith(MAGIC)
    (again,) = verify_bundles([bundle], builder.reference, LoadOptions(), lambda _: None)
    assert (again.gate, again.figures) == ("pass", row.figures)


def test_int8_is_in_the_graphs_that_it_is_given(builder: BundleBuilder, tmp_path: Path) -> None:
    """And it is timed against float, which its writer wrote too."""
    row = builder.build(target("toy", "int8-weights"), tmp_path)
    assert (row.gate, set(row.speedup or ())) == ("pass", {"encode", "decode"})
    assert {file.path for file in Bundle.open(row.bundle).manifest.files} >= {"plan.json", "encode.toy"}


def test_the_command_knows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["formats", "--json"])
    row = json.loads(capsys.readouterr().out)["toy"]
    assert row["runtime"] == "toy"
    assert row["options"] == {"note": {"default": "", "help": "Kept in the manifest."}}
    with pytest.raises(UsageError, match=r"option of toy: got 'nota'; expected one of note; did you mean note\?"):
        target("toy", options={"nota": "hello"})


def test_a_job_and_what_came_of_it_are_the_same_after_json(builder: BundleBuilder, tmp_path: Path) -> None:
    for wanted in (target("onnx"), target("toy", options={"note": "hello"}), target("onnx", "int8-weights")):
        folder = tmp_path / f"{wanted.format_name}-{wanted.precision}"
        folder.mkdir()
        job = builder.sources.job(wanted, builder.sources.plan(wanted), folder)
        assert ExportJob.model_validate_json(job.model_dump_json()) == job
        written = wanted.format.write(job)
        assert Written.model_validate_json(written.model_dump_json()) == written
