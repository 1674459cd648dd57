"""The template suite on every runtime, at FP32 and FP16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from session_template import SessionTemplate

from vqrae.checkpoint import open_checkpoint
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.model.vqrae import resized
from vqrae.runtimes.bundle import listed_files, write_manifest
from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest


@pytest.fixture(scope="module")
def larger(checkpoint_folder: Path) -> Iterator[BundleBuilder]:
    """Builds bundles of the same checkpoint for images of twice the height and one and a half times the width."""
    opened = open_checkpoint(str(checkpoint_folder))
    larger = replace(opened, model=resized(opened.model, (64, 48)))
    with BundleBuilder(VqraeTokenizer(larger), parity_images(None, (64, 48), 4), lambda _: None) as builder:
        yield builder


@pytest.fixture(scope="module")
def bundle_of(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a bundle when it is first asked for."""
    folder = tmp_path_factory.mktemp("bundles")

    def built(format_name: str, precision: str, chosen: BundleBuilder = builder) -> Path:
        wanted = target(format_name, precision)
        path = folder / chosen.name(wanted)
        return path if path.exists() else Path(chosen.build(wanted, folder).bundle)

    return built


@pytest.fixture
def rewrite() -> Callable[[Path], None]:
    """Lets a bundle's manifest list its files as they are."""

    def write(folder: Path) -> None:
        manifest = read_manifest(folder / MANIFEST_FILE)
        write_manifest(folder, manifest.model_copy(update={"files": listed_files(folder)}))

    return write


class OnnxRuntime(SessionTemplate):
    format_name = "onnx"
    devices = "device: got 'tpu'; expected one of cpu, cuda, tensorrt, openvino, coreml"


class OpenVino(SessionTemplate):
    format_name = "openvino"
    devices = "device: got 'tpu'; expected one of cpu"


class CoreML(SessionTemplate):
    """By Core ML on a Mac, by the evaluator elsewhere."""

    format_name = "coreml"
    devices = "device: got 'tpu'; expected one of all, cpu, gpu, ne, evaluator"


class TensorRTRTX(SessionTemplate):
    format_name = "tensorrt-rtx"
    devices = "device: got 'tpu'; expected cuda, or one GPU of several, such as cuda:1"
    needs_gpu = True


class TensorRT(TensorRTRTX):
    format_name = "tensorrt"
    needs_gpu_to_build = True


class TestOnnxRuntimeFP32(OnnxRuntime):
    precision = "fp32"


class TestOnnxRuntimeFP16(OnnxRuntime):
    precision = "fp16"


class TestOpenVinoFP32(OpenVino):
    precision = "fp32"


class TestOpenVinoFP16(OpenVino):
    precision = "fp16"


class TestCoreMLFP32(CoreML):
    precision = "fp32"


class TestCoreMLFP16(CoreML):
    precision = "fp16"


class TestTensorRTRTXFP32(TensorRTRTX):
    precision = "fp32"


class TestTensorRTRTXFP16(TensorRTRTX):
    precision = "fp16"


class TestTensorRTFP32(TensorRT):
    precision = "fp32"


class TestTensorRTFP16(TensorRT):
    precision = "fp16"
