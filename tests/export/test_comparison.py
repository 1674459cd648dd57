"""Two bundles and more: tokens of each decoded by every other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model

from vqrae.checkpoint import open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.comparison import verify_bundles
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.export.verify import VerifyRow
from vqrae.runtimes import registry
from vqrae.runtimes.bundle import Bundle, listed_files
from vqrae.runtimes.load_options import LoadOptions

OPTIONS = LoadOptions(threads=1)


@pytest.fixture(scope="module")
def bundles(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """ONNX and OpenVINO, of one checkpoint."""
    folder = tmp_path_factory.mktemp("pair")
    return [Bundle.open(builder.build(target(name), folder).bundle) for name in ("onnx", "openvino")]


@pytest.fixture(scope="module")
def stranger(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A bundle of other weights."""
    folder = tmp_path_factory.mktemp("stranger")
    save_pretrained(tiny_model(seed=5), folder / "model")
    opened = VqraeTokenizer(open_checkpoint(str(folder / "model")))
    with BundleBuilder(opened, parity_images(None, (32, 32), 2), lambda _: None) as other:
        yield Bundle.open(other.build(target("onnx"), folder).bundle)


def verified(bundles: list[Bundle], builder: BundleBuilder, told: Callable[[str], None] = print) -> list[VerifyRow]:
    return verify_bundles(bundles, builder.reference, OPTIONS, told)


def test_every_pair_understands_each_other(bundles: list[Bundle], builder: BundleBuilder) -> None:
    rows = verified(bundles, builder)
    paths = {str(bundle.path) for bundle in bundles}
    assert [row.gate for row in rows] == ["pass", "pass"]
    for row in rows:
        assert row.interchange is not None
        assert set(row.interchange) == paths
        assert max(map(abs, row.interchange.values())) < 0.01
        assert row.interchange[row.bundle] == pytest.approx(row.figures.source_psnr_drop_db, abs=1e-9)


def test_one_bundle_alone_has_no_matrix(bundles: list[Bundle], builder: BundleBuilder) -> None:
    (row,) = verified(bundles[:1], builder)
    assert row.interchange is None


def test_tokens_that_another_bundle_does_not_understand_fail_the_gate(
    bundles: list[Bundle], stranger: Bundle, builder: BundleBuilder
) -> None:
    ours, theirs = verified([bundles[0], stranger], builder)
    assert (ours.gate, theirs.gate) == ("fail", "fail")
    assert any(f"tokens of {stranger.path}" in miss and "gate <= 0.01 dB" in miss for miss in ours.misses)


def test_a_bundle_that_cannot_run_here_has_the_evidence_of_its_source_graphs(
    bundles: list[Bundle], builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO taken away, and its bundle given the ONNX graphs that it was made from."""
    onnx, openvino = bundles
    copy = Path(shutil.copytree(openvino.path, tmp_path / "copy"))
    for graph in onnx.path.glob("*.onnx*"):
        shutil.copy(graph, copy)
    graphs = {
        name: graph.model_copy(update={"source": source.file, "source_extra_files": source.extra_files})
        for (name, graph), source in zip(openvino.manifest.graphs.items(), onnx.manifest.graphs.values(), strict=True)
    }
    manifest = openvino.manifest.model_copy(update={"graphs": graphs, "files": listed_files(copy)})
    bundle = replace(openvino, path=copy, manifest=manifest)
    entry = replace(registry.RUNTIMES["openvino"], module="openvino_that_is_not_installed")
    monkeypatch.setattr(registry, "RUNTIMES", {**registry.RUNTIMES, "openvino": entry})
    alone, absent = verified([onnx, bundle], builder)
    assert (absent.executed, absent.gate, absent.source_gate) == (False, "not-executed", "pass")
    assert absent.reason is not None
    assert "openvino is not installed" in absent.reason
    assert alone.interchange is absent.interchange is None


def test_a_reference_of_other_weights_fails_both(bundles: list[Bundle], builder: BundleBuilder) -> None:
    spoiled = replace(builder.reference, indices=np.roll(builder.reference.indices, 1, axis=1))
    assert all(row.misses for row in verify_bundles(bundles, spoiled, OPTIONS, lambda _: None))
