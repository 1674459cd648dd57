"""The repository as OpenVINO Model Server reads it: each model compiled from where `config.json` says, as it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.runtimes.backends.openvino import AS_THE_GRAPH_SAYS
from vqrae.runtimes.backends.openvino_library import openvino
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import UsageError
from vqrae.serving.ovms_repository import PLUGIN_CONFIG, write_ovms_repository


@pytest.fixture(scope="module")
def openvino_bundle(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(builder.build(target("openvino"), tmp_path_factory.mktemp("openvino")).bundle)


def test_the_models_run_as_the_server_would_run_them(openvino_bundle: Path, tmp_path: Path) -> None:
    repository = write_ovms_repository(openvino_bundle, tmp_path / "models")
    golden = Bundle.open(openvino_bundle).golden()
    listed = json.loads((repository / "config.json").read_text())["model_config_list"]
    models = {one["config"]["name"]: one["config"] for one in listed}
    assert set(models) == {"encode", "decode"}
    core = openvino.Core()
    results = {}
    for name, feed in (("encode", golden.images), ("decode", golden.indices)):
        version = repository / models[name]["base_path"] / "1"
        assert {path.suffix for path in version.iterdir()} == {".xml", ".bin"}
        (graph,) = version.glob("*.xml")
        compiled = core.compile_model(graph, "CPU", models[name]["plugin_config"])
        results[name] = compiled(feed)
    np.testing.assert_array_equal(results["encode"]["indices"], golden.indices)
    assert np.abs(results["decode"]["images"].astype(int) - golden.decoded).max() <= 1


def test_a_client_finds_the_manifest(openvino_bundle: Path, tmp_path: Path) -> None:
    repository = write_ovms_repository(openvino_bundle, tmp_path / "models")
    assert (repository / "manifest.json").read_bytes() == (openvino_bundle / "manifest.json").read_bytes()


def test_the_server_compiles_as_we_do() -> None:
    assert PLUGIN_CONFIG == AS_THE_GRAPH_SAYS


def test_a_bundle_for_another_runtime_is_refused(bundle: Path, tmp_path: Path) -> None:
    message = "got a bundle for onnxruntime; expected one for openvino; export it with --format openvino"
    with pytest.raises(UsageError, match=message):
        write_ovms_repository(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_repository_that_exists_is_kept(openvino_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError, match="pass --overwrite"):
        write_ovms_repository(openvino_bundle, tmp_path / "models")
    write_ovms_repository(openvino_bundle, tmp_path / "models", overwrite=True)
