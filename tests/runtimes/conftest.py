"""A bundle that is tiny and real: its graphs run in ONNX Runtime, and numpy can repeat what they compute.

Images are 8×12, a token is the mean color of a 4×4 square, the codebook is 16 colors, and decoding paints the squares.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from vqrae.runtimes.evidence import Evidence, ParityFigures
from vqrae.runtimes.golden import GoldenSamples, save_golden
from vqrae.runtimes.manifest import (
    CheckpointIdentity,
    FileEntry,
    GraphSpec,
    Manifest,
    Preprocessing,
    RuntimeInfo,
    TensorSpec,
    Tokens,
    signature,
)
from vqrae.runtimes.precision import Precision
from vqrae.runtimes.preprocess import prepare

HEIGHT, WIDTH, PATCH, CODES = 8, 12, 4, 16
GRID = (HEIGHT // PATCH, WIDTH // PATCH)
PREPROCESSING = Preprocessing(height=HEIGHT, width=WIDTH)
TOKENS = Tokens(grid=GRID, codebook_size=CODES, feature_width=3)
ONNX_TYPES = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


class ColorTokenizer:
    """What the graphs compute, in numpy."""

    codes = np.random.default_rng(0).integers(0, 256, (CODES, 3)).astype(np.float32)

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.features(images) @ self.codes.T - np.square(self.codes).sum(1) / 2

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        patches = images.astype(np.float32).reshape(-1, GRID[0], PATCH, GRID[1], PATCH, 3)
        return patches.mean((2, 4)).reshape(len(images), -1, 3)

    def indices(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        return self.scores(images).argmax(-1).astype(np.int32).reshape(-1, *GRID)

    def margins(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.sort(self.scores(images))
        return (scores[..., -1] - scores[..., -2]).reshape(-1, *GRID)

    def decode(self, indices: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self.codes[indices].astype(np.uint8).repeat(PATCH, 1).repeat(PATCH, 2)


def _save_graph(path: Path, spec: GraphSpec, nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> None:
    def infos(tensors: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(t.name, ONNX_TYPES[t.dtype], t.shape) for t in tensors]

    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, infos(spec.inputs), infos(spec.outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _save_encode(path: Path, spec: GraphSpec) -> None:
    codes = ColorTokenizer.codes
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "patch_shape"], ["patches"]),
        helper.make_node("ReduceMean", ["patches", "patch_axes"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "token_shape"], ["features"]),
        helper.make_node("MatMul", ["features", "codes"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
        helper.make_node("Reshape", ["best", "grid_shape"], ["best_grid"]),
        helper.make_node("Cast", ["best_grid"], ["indices"], to=TensorProto.INT32),
    ]
    constants = {
        "patch_shape": np.array([-1, GRID[0], PATCH, GRID[1], PATCH, 3]),
        "patch_axes": np.array([2, 4]),
        "token_shape": np.array([-1, GRID[0] * GRID[1], 3]),
        "grid_shape": np.array([-1, *GRID]),
        "codes": codes.T.copy(),
        "bias": -np.square(codes).sum(1) / 2,
    }
    _save_graph(path, spec, nodes, constants)


def _save_decode(path: Path, spec: GraphSpec) -> None:
    nodes = [
        helper.make_node("Gather", ["codes", "indices"], ["colors"]),
        helper.make_node("Reshape", ["colors", "square_shape"], ["squares"]),
        helper.make_node("Tile", ["squares", "repeats"], ["painted"]),
        helper.make_node("Reshape", ["painted", "image_shape"], ["pixels"]),
        helper.make_node("Cast", ["pixels"], ["images"], to=TensorProto.UINT8),
    ]
    constants = {
        "codes": ColorTokenizer.codes,
        "square_shape": np.array([-1, GRID[0], 1, GRID[1], 1, 3]),
        "repeats": np.array([1, 1, PATCH, 1, PATCH, 1]),
        "image_shape": np.array([-1, HEIGHT, WIDTH, 3]),
    }
    _save_graph(path, spec, nodes, constants)


def _save_golden(folder: Path, photographs: list[Path]) -> None:
    reference = ColorTokenizer()
    images = np.stack([prepare(path, HEIGHT, WIDTH) for path in photographs])
    indices = reference.indices(images)
    samples = GoldenSamples(
        sources=tuple(photographs),
        photographs=tuple(path.read_bytes() for path in photographs),
        images=images,
        indices=indices,
        decoded=reference.decode(indices),
        margins=reference.margins(images),
    )
    save_golden(folder, samples)


def example_manifest(**changes: Any) -> Manifest:
    graphs = {
        name: GraphSpec(file=f"{name}.onnx", inputs=inputs, outputs=outputs)
        for name in ("encode", "decode")
        for inputs, outputs in [signature(name, PREPROCESSING, TOKENS)]
    }
    figures = ParityFigures(
        images=2,
        tokens=12,
        excess_distortion=0.0,
        token_agreement=1.0,
        mismatches=0,
        unexplained_mismatches=0,
        noise=0.01,
        feature_cosine=1.0,
        feature_max_error=0.0,
        decode_psnr_db=100.0,
        source_psnr_drop_db=0.0,
        source_ssim_drop=0.0,
    )
    values: dict[str, Any] = {
        "name": "color-onnxruntime-fp32",
        "created": "2026-01-02T03:04:05Z",
        "created_with": {"vqrae": "0.1.0"},
        "checkpoint": CheckpointIdentity(
            name="color", source="color", weights_sha256="a" * 64, config_sha256="b" * 64, random_weights=True
        ),
        "graphs": graphs,
        "preprocessing": PREPROCESSING,
        "tokens": TOKENS,
        "precision": Precision(name="fp32"),
        "runtime": RuntimeInfo(name="onnxruntime", built_with={"onnx": "1.20.0"}),
        "evidence": Evidence(executed=True, gate="pass", runtime_version="1.20.0", device="cpu", figures=figures),
        "files": tuple(FileEntry(path=f"{name}.onnx", size=1, sha256="c" * 64) for name in ("decode", "encode")),
    }
    return Manifest(**values | changes)


def write_manifest(folder: Path, **changes: Any) -> None:
    """Write a manifest that lists the folder's files as they are."""
    files = tuple(
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            size=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    )
    (folder / "manifest.json").write_text(example_manifest(files=files, **changes).to_json(), encoding="utf-8")


@pytest.fixture(scope="session")
def reference() -> ColorTokenizer:
    return ColorTokenizer()


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    return example_manifest


@pytest.fixture
def rewrite_manifest() -> Callable[..., None]:
    return write_manifest


@pytest.fixture
def edit_manifest(bundle: Path) -> Callable[[Callable[[Any], None]], None]:
    """Change the manifest's JSON by hand, as an attacker or a slip would."""

    def edit(change: Callable[[Any], None]) -> None:
        path = bundle / "manifest.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edit


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wide PNG and a tall JPEG, smooth enough to be resized."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / "wide.png", folder / "tall.jpg"]
    for seed, (path, size) in enumerate(zip(paths, [(90, 40), (31, 77)], strict=True)):
        noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture(scope="session")
def build_bundle(photographs: list[Path]) -> Callable[..., Path]:
    def build(folder: Path, batch: int | str = "batch") -> Path:
        folder.mkdir()
        graphs = {}
        for name, save in (("encode", _save_encode), ("decode", _save_decode)):
            inputs, outputs = signature(name, PREPROCESSING, TOKENS, batch=batch)
            graphs[name] = GraphSpec(file=f"{name}.onnx", inputs=inputs, outputs=outputs)
            save(folder / f"{name}.onnx", graphs[name])
        _save_golden(folder, photographs)
        write_manifest(folder, graphs=graphs)
        return folder

    return build


@pytest.fixture(scope="session")
def pristine_bundle(build_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests; do not change it."""
    return build_bundle(tmp_path_factory.mktemp("pristine") / "color")


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "color"))
