"""The clients of examples/, run as their users run them: the tokens are those of `vqrae.load`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.runtimes.tokenizer import load

EXAMPLES = Path(__file__).parents[2] / "examples"
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0])"


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(data.coffee()[::4, ::4]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def ran(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_in_ten_lines_without_torch(exported: Path, photograph: Path, tmp_path: Path) -> None:
    client = EXAMPLES / "client_python.py"
    assert len([line for line in client.read_text().split('"""')[2].splitlines() if line.strip()]) <= 10
    shown = ran(sys.executable, "-c", WITHOUT_TORCH, client, exported, photograph, "out.png", cwd=tmp_path)
    assert shown == "(1, 4, 4) (1, 16, 32)\n"
    with load(exported) as tokenizer, Image.open(tmp_path / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), tokenizer.reconstruct(photograph)[0])


@pytest.mark.slow
def test_node(node: str, node_modules: Callable[[str], Path], exported: Path, photograph: Path, tmp_path: Path) -> None:
    for folder in ("browser", "node"):
        ignored = shutil.ignore_patterns("node_modules", "bundle")
        shutil.copytree(EXAMPLES / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "browser" / "package.json").replace(tmp_path / "package.json")  # modules, by its `type`
    (tmp_path / "node" / "node_modules").symlink_to(node_modules("node"))
    found = json.loads(ran(node, tmp_path / "node" / "client.mjs", exported, photograph, cwd=tmp_path))
    with load(exported) as tokenizer:
        assert found == tokenizer.encode(photograph).indices.ravel().tolist()


@pytest.fixture(scope="session")
def compiled_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for program in ("cmake", "g++"):
        if shutil.which(program) is None:
            pytest.skip(f"the C++ client is not compiled: {program} is not installed")
    spec = find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the C++ client is not compiled: openvino is not installed")
    build = tmp_path_factory.mktemp("cpp")
    openvino = Path(spec.submodule_search_locations[0]) / "cmake"
    ran("cmake", "-S", EXAMPLES / "cpp", "-B", build, f"-DOpenVINO_DIR={openvino}", cwd=build)
    ran("cmake", "--build", build, cwd=build)
    return build / "client"


@pytest.mark.slow
def test_cpp(compiled_client: Path, builder: BundleBuilder, tmp_path: Path) -> None:
    bundle = Path(builder.build(target("openvino"), tmp_path).bundle)
    with load(bundle) as tokenizer:
        golden = tokenizer.bundle.golden()
        for image, tokens in zip(golden.images, tokenizer.encode(golden.images).indices, strict=True):
            Image.fromarray(image).save(tmp_path / "picture.ppm")
            shown = ran(compiled_client, bundle, tmp_path / "picture.ppm", cwd=tmp_path)
            assert list(map(int, shown.split())) == tokens.ravel().tolist()
    Image.fromarray(golden.images[0][:-1]).save(tmp_path / "small.ppm")
    refused = subprocess.run(
        [compiled_client, bundle, tmp_path / "small.ppm"], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "got another size than the bundle's" in refused.stderr
