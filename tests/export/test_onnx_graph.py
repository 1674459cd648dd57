from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_models import NETWORKS, random_images, tiny_model

from vqrae.export import onnx_graph
from vqrae.export.tokenizers.vqrae import graph_plans
from vqrae.model import VQRAE
from vqrae.model.search import argmax_by_slices
from vqrae.runtimes.manifest import GraphSpec


def traced(model: VQRAE, folder: Path, *, split: bool = False) -> dict[str, GraphSpec]:
    return {plan.name: onnx_graph.graph_from_plan(plan, folder) for plan in graph_plans(model, split=split)}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, GraphSpec]]:
    folder = tmp_path_factory.mktemp("graphs")
    return folder, traced(tiny_model(), folder, split=True)


def run(folder: Path, spec: GraphSpec, feed: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(folder / spec.file, providers=["CPUExecutionProvider"])
    return session.run([output.name for output in spec.outputs], {spec.inputs[0].name: feed})


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_batch_is_dynamic(split: tuple[Path, dict[str, GraphSpec]], batch: int) -> None:
    folder, specs = split
    indices, features = run(folder, specs["encode"], random_images(batch).numpy())
    assert (indices.dtype, indices.shape) == (np.int32, (batch, 4, 4))
    assert (features.dtype, features.shape) == (np.float32, (batch, 16, 32))
    (images,) = run(folder, specs["decode"], indices)
    assert (images.dtype, images.shape) == (np.uint8, (batch, 32, 32, 3))


def test_a_batch_gives_what_its_images_give_alone(split: tuple[Path, dict[str, GraphSpec]]) -> None:
    folder, specs = split
    images = random_images(4).numpy()
    alone = np.concatenate([run(folder, specs["encode"], image[None])[0] for image in images])
    np.testing.assert_array_equal(run(folder, specs["encode"], images)[0], alone)


def test_parts_compose_to_the_wholes(split: tuple[Path, dict[str, GraphSpec]]) -> None:
    folder, specs = split
    images = random_images(5).numpy()
    indices, features = run(folder, specs["encode"], images)
    np.testing.assert_array_equal(run(folder, specs["encoder"], images)[0], features)
    np.testing.assert_array_equal(run(folder, specs["quantizer"], features)[0], indices)
    (quantized,) = run(folder, specs["codebook"], indices)
    np.testing.assert_array_equal(run(folder, specs["decoder"], quantized)[0], run(folder, specs["decode"], indices)[0])


def test_only_standard_operators_of_opset_20(split: tuple[Path, dict[str, GraphSpec]]) -> None:
    folder, specs = split
    for spec in specs.values():
        model = onnx.load(folder / spec.file)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        assert {node.domain for node in model.graph.node} <= {""}
        assert not model.functions


def test_no_convolution_distance_or_code_width_at_run_time(split: tuple[Path, dict[str, GraphSpec]]) -> None:
    folder, specs = split
    model = onnx.load(folder / specs["encode"].file)
    kinds = [node.op_type for node in model.graph.node]
    assert not {"Conv", "Sqrt", "ReduceSum"} & set(kinds)
    assert kinds.count("ArgMax") == 2, "of the slices, and inside the best one"
    assert [node.op_type for node in onnx.load(folder / specs["codebook"].file).graph.node].count("Gather") == 1
    assert all(48 not in tensor.dims for tensor in model.graph.initializer), "the code width is folded away"


@pytest.mark.parametrize("codes", [64, 4096, 384, 97])
def test_argmax_by_slices_is_argmax(codes: int) -> None:
    scores = torch.randint(-9, 9, (3, 50, codes), generator=torch.Generator().manual_seed(codes)).float()  # many ties
    assert torch.equal(argmax_by_slices(scores), scores.argmax(-1))


def test_nodes_name_their_layer_and_no_path_of_this_machine(split: tuple[Path, dict[str, GraphSpec]]) -> None:
    folder, specs = split
    path = folder / specs["encode"].file
    scopes = [p.value for node in onnx.load(path).graph.node for p in node.metadata_props]
    assert any("encoder.blocks.0" in scope for scope in scopes)
    assert b"graphs.py" not in path.read_bytes()


def test_polygraphy_inspects_it(split: tuple[Path, dict[str, GraphSpec]]) -> None:
    folder, specs = split
    polygraphy = Path(sys.executable).with_name("polygraphy")
    command = [polygraphy, "inspect", "model", folder / specs["encode"].file]
    inspected = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "images [dtype=uint8" in inspected
    assert "indices [dtype=int32" in inspected


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(set(NETWORKS) - {"siglip"}))
def test_every_encoder_family_traces(network: str, tmp_path: Path) -> None:
    model, images = tiny_model(network), random_images(3)
    specs = traced(model, tmp_path)
    indices, features = run(tmp_path, specs["encode"], images.numpy())
    expected_indices, expected_features = model.encode_images(images)
    np.testing.assert_allclose(features, expected_features, atol=1e-4, rtol=1e-4)
    assert (indices == expected_indices.numpy()).mean() > 0.97


def test_large_weights_go_to_a_file_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "SINGLE_FILE_LIMIT", 0)
    model, images = tiny_model(), random_images(2)
    specs = traced(model, tmp_path)
    assert specs["encode"].extra_files == ("encode.onnx.data",)
    assert (tmp_path / "encode.onnx.data").stat().st_size > (tmp_path / "encode.onnx").stat().st_size
    indices, _ = run(tmp_path, specs["encode"], images.numpy())
    assert torch.equal(torch.from_numpy(indices), model.encode_images(images)[0])
