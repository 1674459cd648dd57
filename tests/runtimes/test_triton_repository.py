"""The repository as Triton reads it: its configuration parsed by NVIDIA's own protocol buffers, its graphs run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format

from vqrae.runtimes.bundle import Bundle, sha256_file
from vqrae.runtimes.errors import BundleError, UsageError
from vqrae.serving.triton_repository import MAX_BATCH, MAX_QUEUE, write_triton_repository

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the client's own imports
    from tritonclient.grpc import model_config_pb2 as triton

Edit = Callable[[Callable[[Any], None]], None]


def config(repository: Path, model: str) -> Any:
    """Strict: a field that Triton does not know, or of another type, is an error."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), triton.ModelConfig())


def tensors(fields: Any) -> list[tuple[str, str, list[int]]]:
    return [(field.name, triton.DataType.Name(field.data_type), list(field.dims)) for field in fields]


@pytest.fixture
def repository(bundle: Path, tmp_path: Path) -> Path:
    return write_triton_repository(bundle, tmp_path / "models")


def test_encode_and_decode_are_what_the_manifest_says(repository: Path) -> None:
    encode, decode = config(repository, "encode"), config(repository, "decode")
    assert (encode.name, encode.backend, encode.max_batch_size) == ("encode", "onnxruntime", MAX_BATCH)
    assert tensors(encode.input) == [("images", "TYPE_UINT8", [8, 12, 3])]
    assert tensors(encode.output) == [("indices", "TYPE_INT32", [2, 3]), ("features", "TYPE_FP32", [6, 3])]
    assert tensors(decode.input) == [("indices", "TYPE_INT32", [2, 3])]
    assert tensors(decode.output) == [("images", "TYPE_UINT8", [8, 12, 3])]
    for model in (encode, decode):
        assert model.HasField("dynamic_batching")
        assert model.dynamic_batching.default_queue_policy.max_queue_size == MAX_QUEUE


def test_a_client_learns_which_bundle_it_is(repository: Path, bundle: Path) -> None:
    told = {key: value.string_value for key, value in config(repository, "encode").parameters.items()}
    assert told == {
        "vqrae.bundle": "color-onnxruntime-fp32",
        "vqrae.manifest_sha256": sha256_file(bundle / "manifest.json"),
        "vqrae.preprocessing": "bicubic-center-crop/1",
        "vqrae.codebook_size": "16",
    }


def test_the_ensemble_fits_its_parts(repository: Path) -> None:
    """Every tensor of a step is one of the model that it names, with the same dtype and shape on both sides."""
    ensemble = config(repository, "reconstruct")
    assert (ensemble.platform, ensemble.max_batch_size) == ("ensemble", MAX_BATCH)
    known = {name: (dtype, dims) for name, dtype, dims in tensors(ensemble.input)}
    for step in ensemble.ensemble_scheduling.step:
        part = config(repository, step.model_name)
        inputs, outputs = ({name: (d, s) for name, d, s in tensors(side)} for side in (part.input, part.output))
        assert set(step.input_map) == set(inputs), "each input is fed"
        assert all(known[source] == inputs[name] for name, source in step.input_map.items())
        known |= {target: outputs[name] for name, target in step.output_map.items()}
    assert [(name, known[name]) for name, *_ in tensors(ensemble.output)] == [
        (name, (dtype, dims)) for name, dtype, dims in tensors(ensemble.output)
    ]
    assert {name for name, *_ in tensors(ensemble.output)} == {"indices", "reconstructions"}


def test_the_layout_is_one_folder_a_model_and_one_a_version(repository: Path) -> None:
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert files == {
        *("decode/config.pbtxt", "decode/1/decode.onnx", "encode/config.pbtxt", "encode/1/encode.onnx"),
        *("reconstruct/config.pbtxt", "reconstruct/1/.keep"),
    }


def test_the_graphs_run_in_the_ensembles_order(repository: Path, bundle: Path, reference: Any) -> None:
    """As Triton would: each file that a configuration names, fed by the names that it gives."""
    images = Bundle.open(bundle).golden().images
    known = {"images": images}
    for step in config(repository, "reconstruct").ensemble_scheduling.step:
        path = repository / step.model_name / "1" / config(repository, step.model_name).default_model_filename
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feeds = {name: known[source] for name, source in step.input_map.items()}
        results = session.run(list(step.output_map), feeds)
        known |= dict(zip(step.output_map.values(), results, strict=True))
    np.testing.assert_array_equal(known["indices"], reference.indices(images))
    np.testing.assert_array_equal(known["reconstructions"], reference.decode(known["indices"]))


def test_a_smaller_batch(bundle: Path, tmp_path: Path) -> None:
    repository = write_triton_repository(bundle, tmp_path / "models", max_batch=4)
    assert {config(repository, model).max_batch_size for model in ("encode", "decode", "reconstruct")} == {4}


def test_a_batch_of_one_is_not_batched(bundle: Path, tmp_path: Path) -> None:
    encode = config(write_triton_repository(bundle, tmp_path / "models", max_batch=1), "encode")
    assert (encode.max_batch_size, encode.HasField("dynamic_batching")) == (1, False)


def test_a_fixed_batch_is_told_with_whole_shapes(build_bundle: Callable[..., Path], tmp_path: Path) -> None:
    fixed = build_bundle(tmp_path / "fixed", batch=2)
    repository = write_triton_repository(fixed, tmp_path / "models")
    encode = config(repository, "encode")
    assert (encode.max_batch_size, encode.HasField("dynamic_batching")) == (0, False)
    assert tensors(encode.input) == [("images", "TYPE_UINT8", [2, 8, 12, 3])]
    with pytest.raises(UsageError, match="--max-batch: got 4; expected 2, which encode was built for"):
        write_triton_repository(fixed, tmp_path / "other", max_batch=4)


def limits(**values: Any) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        for graph in manifest["graphs"].values():
            graph["batch_limits"] = {"least": 1, "best": None, "only": []} | values

    return change


def test_limits_of_the_bundle_are_kept(bundle: Path, edit_manifest: Edit, tmp_path: Path) -> None:
    edit_manifest(limits(best=4, most=8))
    encode = config(write_triton_repository(bundle, tmp_path / "models"), "encode")
    assert encode.max_batch_size == 8
    assert list(encode.dynamic_batching.preferred_batch_size) == [4]
    with pytest.raises(UsageError, match="--max-batch: got 9; expected at most 8, which encode was built for"):
        write_triton_repository(bundle, tmp_path / "other", max_batch=9)


@pytest.mark.parametrize("values", [{"least": 2, "most": 8}, {"most": 4, "only": [1, 4]}])
def test_batches_that_triton_may_not_send_are_refused(
    bundle: Path, edit_manifest: Edit, tmp_path: Path, values: dict[str, Any]
) -> None:
    edit_manifest(limits(**values))
    with pytest.raises(UsageError, match="expected all from 1; export it with --batch 1:BEST:MOST"):
        write_triton_repository(bundle, tmp_path / "models")


@pytest.mark.parametrize(("runtime", "backend"), [("openvino", "openvino"), ("tensorrt", "tensorrt")])
def test_each_runtime_has_its_backend(
    bundle: Path, edit_manifest: Edit, tmp_path: Path, runtime: str, backend: str
) -> None:
    edit_manifest(lambda values: values["runtime"].update(name=runtime))
    encode = config(write_triton_repository(bundle, tmp_path / "models"), "encode")
    assert encode.backend == backend
    padding = encode.parameters.get("ENABLE_BATCH_PADDING")
    assert (padding.string_value if padding else None) == ("YES" if runtime == "openvino" else None)


@pytest.mark.parametrize("runtime", ["coreml", "tensorrt-rtx"])
def test_a_runtime_that_triton_has_no_backend_for(
    bundle: Path, edit_manifest: Edit, tmp_path: Path, runtime: str
) -> None:
    edit_manifest(lambda values: values["runtime"].update(name=runtime))
    message = f"got a bundle for {runtime}; expected one for onnxruntime, openvino, tensorrt"
    with pytest.raises(UsageError, match=message):
        write_triton_repository(bundle, tmp_path / "models")


def test_weights_that_triton_would_multiply_otherwise(bundle: Path, edit_manifest: Edit, tmp_path: Path) -> None:
    edit_manifest(lambda values: values["precision"].update(name="int8-weights"))
    with pytest.raises(UsageError, match="which Triton's backend would multiply in INT8 too"):
        write_triton_repository(bundle, tmp_path / "models")


def test_a_name_with_quotes_is_only_a_name(bundle: Path, edit_manifest: Edit, tmp_path: Path) -> None:
    name = 'a"} name: "b\\ü'
    edit_manifest(lambda values: values.update(name=name))
    encode = config(write_triton_repository(bundle, tmp_path / "models"), "encode")
    assert (encode.name, encode.parameters["vqrae.bundle"].string_value) == ("encode", name)


def test_weights_beside_the_graph_come_along(
    bundle: Path, rewrite_manifest: Callable[..., None], edit_manifest: Edit, tmp_path: Path
) -> None:
    (bundle / "encode.weights").write_bytes(b"weights")
    rewrite_manifest(bundle)
    edit_manifest(lambda values: values["graphs"]["encode"].update(extra_files=["encode.weights"]))
    repository = write_triton_repository(bundle, tmp_path / "models")
    assert (repository / "encode" / "1" / "encode.weights").read_bytes() == b"weights"


def test_a_changed_bundle_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    (bundle / "encode.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="got 0 bytes"):
        write_triton_repository(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()
