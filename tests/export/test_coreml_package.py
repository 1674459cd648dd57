"""Core ML packages: what they hold, what they say of themselves, and that each is the model that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_packages import converted, figures, fp16_bundle, opened, package
from tiny_models import random_images, tiny_model
from torch import Tensor, nn

from vqrae.export.batch import Batch
from vqrae.export.build import BundleBuilder
from vqrae.export.form import KEPT_IN_FP16
from vqrae.export.formats import target
from vqrae.export.formats.coreml.readback import built_precision
from vqrae.export.tokenizers.vqrae import EncodeGraph
from vqrae.runtimes.backends.coreml_spec import batch_limits, operations, read_spec
from vqrae.runtimes.backends.coreml_tools import ct
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError
from vqrae.runtimes.manifest import BatchLimits, read_manifest
from vqrae.runtimes.parity import judge_parity, misses
from vqrae.runtimes.precision import PRECISIONS, Precision


def test_a_bundle_is_built_and_says_that_an_evaluator_executed_it(builder: BundleBuilder) -> None:
    manifest = read_manifest(fp16_bundle(builder) / "manifest.json")
    evidence = manifest.evidence
    assert (evidence.gate, evidence.executed, evidence.means, evidence.device) == ("pass", True, *["evaluator"] * 2)
    assert evidence.precision == "float16 ×13, float32 ×1"
    assert manifest.precision.kept_float == KEPT_IN_FP16
    assert manifest.graphs["encode"].carriers == {"images": "float32"}
    assert manifest.graphs["encode"].file == "encode.mlpackage"
    assert manifest.graphs["encode"].batch_limits == BatchLimits(least=1, best=1, most=32)
    assert manifest.runtime.built_with.keys() == {"coremltools", "torch"}


def test_fp32_passes_its_gate() -> None:
    measured = figures(converted("encode"), converted("decode"))
    assert misses(judge_parity(measured, PRECISIONS["fp32"].limits)) == ()
    assert measured.tokens == 8 * 16


@pytest.mark.slow
@pytest.mark.parametrize("network", ["siglip", "dinov2-swiglu", "internvit-qk-norm"])
def test_every_family_takes_any_batch(network: str, tmp_path: Path) -> None:
    model = tiny_model(network)
    traced = EncodeGraph(model).eval()
    with opened(*(converted("encode") if network == "siglip" else package("encode", tmp_path, model))) as session:
        for count in (1, 2, 7):
            images = random_images(count, seed=count)
            indices, features = traced(images)
            found = session.run({"images": images.numpy()})
            np.testing.assert_array_equal(found["indices"], indices.numpy())
            np.testing.assert_allclose(found["features"], features.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "batch", "limits"),
    [
        ("codebook", "1:2:4", BatchLimits(least=1, best=2, most=4)),
        ("decode", "1,3", BatchLimits(least=1, most=3, only=(1, 3))),
    ],
)
def test_a_batch_takes_the_sizes_that_were_asked_for(name: str, batch: str, limits: BatchLimits) -> None:
    path, graph = converted(name, batch=batch)
    assert batch_limits(read_spec(path)) == graph.batch_limits == limits
    with opened(path, graph) as session:
        for count in (limits.least, limits.most):
            (given,) = session.run({"indices": np.zeros((count, 4, 4), np.int32)}).values()
            assert len(given) == count
        refused = 2 if limits.only else limits.most + 1
        with pytest.raises(RuntimeUnavailable, match=rf"got a batch of {refused}; expected {limits}$"):
            session.run({"indices": np.zeros((refused, 4, 4), np.int32)})


def test_a_fixed_batch_is_fixed() -> None:
    path, graph = converted("codebook", batch="3")
    assert batch_limits(read_spec(path)) is graph.batch_limits is None
    assert graph.fixed_batch == 3
    with opened(path, graph) as session:
        assert session.run({"indices": np.zeros((3, 4, 4), np.int32)})["quantized_features"].shape == (3, 16, 32)


def test_core_ml_images_are_the_same_tokens_and_the_same_pictures() -> None:
    images, given = random_images(1).numpy(), []
    for batch, inputs in (("1", "image"), ("dynamic", "tensor")):
        encode, decode = (converted(name, batch=batch, inputs=inputs) for name in ("encode", "decode"))
        with opened(*encode) as encoding, opened(*decode) as decoding:
            encoded = encoding.run({"images": images})
            given.append((*encoded.values(), *decoding.run({"indices": encoded["indices"]}).values()))
    for as_image, as_tensor in zip(*given, strict=True):
        np.testing.assert_allclose(as_image, as_tensor, rtol=1e-5, atol=1e-5)
        assert as_image.dtype == as_tensor.dtype


def test_core_ml_images_are_images() -> None:
    for name in ("encode", "decode"):
        path, graph = converted(name, batch="1", inputs="image")
        description = read_spec(path).description
        kinds = {each.name: each.type.WhichOneof("Type") for each in (*description.input, *description.output)}
        assert (kinds["images"], kinds["indices"]) == ("imageType", "multiArrayType")
        assert graph.carriers == {"images": "image"}


@pytest.mark.parametrize("batch", ["dynamic", "2", "1:2:4", "1,2"])
def test_core_ml_images_come_one_at_a_time(batch: str) -> None:
    message = r"^batch of coreml: got inputs that are images; expected a batch fixed at 1: .*; pass --batch 1$"
    with pytest.raises(UsageError, match=message):
        target("coreml", batch=Batch.parse(batch), options={"inputs": "image"})


def test_xcode_is_told_what_it_is() -> None:
    model = ct.models.MLModel(str(converted("encode")[0]), skip_model_load=True)
    assert (model.author, model.license) == ("exported by vqrae", "MIT")
    assert model.short_description == "encode of the image tokenizer test-siglip"
    assert model.version
    assert dict(model.user_defined_metadata) == {
        "vqrae.checkpoint": "test-siglip",
        "vqrae.codebook_size": "64",
        "vqrae.image_size": "32x32",
        "vqrae.preprocessing": "bicubic-center-crop/1",
        "vqrae.token_grid": "4x4",
    }
    assert model.input_description["images"] == (
        "RGB images (batch, 32, 32, 3), numbers from 0 to 255 without fractions, resized by the rule "
        "bicubic-center-crop/1"
    )
    assert model.output_description["indices"] == "token ids (batch, 4, 4), from 0 to 63"


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    first, second = converted("decode")[0], package("decode", tmp_path, tiny_model(), target("coreml", options=MIT))[0]
    assert contents(first) == contents(second)
    assert contents(first).keys() == {
        "Manifest.json",
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
    }
    assert ct.utils.load_spec(str(first)) == read_spec(first)  # by way of the table of contents


MIT = {"license": "MIT"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_gelu_stays_the_tanh_form() -> None:
    modes = {
        operation.attributes["val"].immediateValue.tensor.strings.values[0]
        for operation in operations(read_spec(converted("encode")[0]))
        if operation.type == "const" and operation.outputs[0].name.startswith("gelu_mode")
    }
    assert modes == {"TANH_APPROXIMATION"}


def test_fp16_keeps_the_weights_of_the_scores_and_of_the_norms(builder: BundleBuilder) -> None:
    weights = {
        operation.outputs[0].name: operation.outputs[0].type.tensorType.dataType
        for operation in operations(read_spec(fp16_bundle(builder) / "encode.mlpackage"))
        if operation.type == "const" and operation.outputs[0].name.endswith("_weight")
    }
    for name, dtype in weights.items():
        kept = "norm" in name or "scores" in name
        assert dtype == (ct.proto.MIL_pb2.FLOAT32 if kept else ct.proto.MIL_pb2.FLOAT16), name
    assert "p_quantizer_scores_weight" in weights


def test_fp16_that_came_out_fp32_is_refused() -> None:
    message = r"^encode\.mlpackage, linear: got a matrix product in float32; expected float16, which was asked for"
    with pytest.raises(RuntimeUnavailable, match=message):
        built_precision(Precision(name="fp16"), {"encode": read_spec(converted("encode")[0])}, {"encode": []})


class Lgamma(nn.Module):
    """An activation that coremltools lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(x)


def test_an_operator_that_coremltools_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    def with_lgamma(module: Any) -> Any:
        module.encoder.blocks[1].activation = Lgamma()
        return module

    message = (
        r"^encode, node lgamma of the layer encoder\.blocks\.1\.activation: got the operator aten\.lgamma\.default; "
        r"expected one that coremltools has; export to another format$"
    )
    with pytest.raises(RuntimeUnavailable, match=message):
        package("encode", tmp_path, tiny_model(), change=with_lgamma)


def test_converting_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package("quantizer", tmp_path, tiny_model())
    assert capfd.readouterr() == ("", "")
