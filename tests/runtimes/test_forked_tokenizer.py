"""A tokenizer in a forked process is refused, or works; it never hangs. Forks happen in a child of the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from vqrae.runtimes.bundle import listed_files, write_manifest
from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest

CODE = """
import os, sys
import numpy as np
import vqrae
bundle, own = sys.argv[1:]
images = np.zeros((1, 8, 12, 3), np.uint8)
with vqrae.load(bundle, threads=1) as tokenizer:
    tokenizer.encode(images)
    child = os.fork()
    if not child:
        try:
            if own == "own":
                tokenizer = vqrae.load(bundle, threads=1)
            tokenizer.encode(images)
            tokenizer.close()
            print("works", flush=True)
        except vqrae.runtimes.errors.UsageError as error:
            tokenizer.close()
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    tokenizer.encode(images)
"""


@pytest.fixture
def openvino_bundle(bundle: Path, tmp_path: Path) -> Path:
    """The same bundle with a graph of OpenVINO's: constants of the right shapes, which is enough to load and run."""
    folder = Path(shutil.copytree(bundle, tmp_path / "openvino"))
    manifest = read_manifest(folder / MANIFEST_FILE)
    graph = manifest.graphs["encode"]
    images = ops.parameter([-1, 8, 12, 3], np.uint8, name="images")
    images.output(0).set_names({"images"})
    sums = ops.reduce_sum(ops.convert(images, "f32"), np.array([1, 2, 3]), keep_dims=True)
    results = []
    for spec in graph.outputs:
        kind = {"int32": "i32", "float32": "f32"}[spec.dtype]
        flat = ops.reshape(sums, np.array([-1, *[1] * (len(spec.shape) - 1)]), special_zero=False)
        made = ops.convert(ops.multiply(flat, np.zeros((1, *map(int, spec.shape[1:])), np.float32)), kind)
        made.output(0).set_names({spec.name})
        results.append(made)
    openvino.save_model(openvino.Model(results, [images], "encode"), folder / "encode.xml", compress_to_fp16=False)
    changed = graph.model_copy(update={"file": "encode.xml", "extra_files": ("encode.bin",)})
    runtime = manifest.runtime.model_copy(update={"name": "openvino"})
    update = {"graphs": {"encode": changed}, "runtime": runtime, "files": listed_files(folder)}
    write_manifest(folder, manifest.model_copy(update=update))
    return folder


def said(bundle: Path, own: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", CODE, bundle, own], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("own", ["own", "the parent's"])
def test_openvino_in_a_forked_process_is_refused_and_never_hangs(openvino_bundle: Path, own: str) -> None:
    message = "in a forked process: got openvino loaded by process"
    assert message in said(openvino_bundle, own)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_onnx_runtime_works_in_a_forked_process_that_loads_its_own(bundle: Path) -> None:
    assert said(bundle, "own") == "works\n"
    assert "load it in children only, or start them by spawn" in said(bundle, "the parent's")
