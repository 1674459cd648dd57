"""What the README promises to an app: without torch the wheel loads a bundle, encodes, decodes, and tests itself."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from wheel_modules import IMPORTS

ROOT = Path(__file__).parents[1]

APP = """
import importlib.util, json, sys
import vqrae

assert importlib.util.find_spec("torch") is None
with vqrae.load(sys.argv[1]) as tokenizer:
    encoding = tokenizer.encode(sys.argv[2])
    images = tokenizer.decode(encoding.indices)
print(json.dumps([encoding.indices.shape, encoding.features.shape, images.shape]))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a venv's programs, with `vqrae[onnxruntime]` installed from this tree and nothing else."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=True)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    constraints = ROOT / "constraints.txt"
    command = [programs / "python", "-m", "pip", "install", "-q", "-c", constraints, f"{ROOT}[onnxruntime]"]
    subprocess.run(command, check=True, cwd=home)
    return programs


@pytest.mark.slow
def test_an_app_without_torch(bare: Path, exported: Path) -> None:
    photograph = exported / "golden" / "source-00.png"
    command = [bare / "python", "-c", APP, exported, photograph]
    # Elsewhere than in the repository, whose own `vqrae` folder would come before the installed package.
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=bare)
    shapes = json.loads(finished.stdout)
    assert shapes == [[1, 4, 4], [1, 16, 32], [1, 32, 32, 3]]


@pytest.mark.slow
def test_selftest_without_torch(bare: Path, exported: Path) -> None:
    command = [bare / "vqrae", "selftest", exported, "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (report["gate"], report["preprocessing_equal"]) == ("pass", True)


@pytest.mark.slow
def test_a_verb_that_needs_more_names_the_command_that_adds_it(bare: Path, tmp_path: Path) -> None:
    command = [bare / "vqrae", "export", "tiny", "-o", tmp_path]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 4
    assert "not installed; install it with `pip install 'vqrae[export]'`" in finished.stderr
    assert finished.stderr.count("\n") == 1


@pytest.mark.slow
def test_every_module_is_imported_where_its_dependency_is_there(bare: Path) -> None:
    done = subprocess.run([bare / "python", "-c", IMPORTS], check=False, capture_output=True, text=True, cwd=bare)
    assert done.returncode == 0, done.stderr
    imported, absent = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in (*imported, *absent) if ".studies" in name]
    away = {name for name in absent if name.startswith("vqrae.runtimes") and ".backends." not in name}
    assert away == {"vqrae.runtimes.ed25519"}, "it needs vqrae[sign]"
    assert {"vqrae.runtimes.backends.onnxruntime", "vqrae.runtimes.tokenizer", "vqrae.runtimes.selftest"} <= {*imported}
    assert {"vqrae.cli.app", "vqrae.cli.serve", "vqrae.calibration.plan"} <= {*imported}
