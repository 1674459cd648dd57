"""The repository's own folder is a good place to stand in, however vqrae was installed there, or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from wheel_modules import IMPORTS

ROOT = Path(__file__).parents[1]
NOT_THE_TREE = (".*", "__pycache__", "build", "demo", "runs", "node_modules", "*.egg-info")
OPTIONS = {"plain": [], "editable": ["--editable"], "none": None}
WHERE = """
import vqrae, vqrae.benchmarks.bench, vqrae.export.formats, vqrae.runtimes, vqrae.serving.app
assert vqrae.__version__
print(*vqrae.__path__, vqrae.runtimes.__file__, vqrae.export.formats.__file__, vqrae.serving.app.__file__, sep="\\n")
"""


def test_only_the_namespace_itself_asks_which_version_is_installed() -> None:
    """Where nothing is installed, asking fails."""
    floors = [ROOT / name for name in ("vqrae", "runtimes", "calibration", "export", "benchmarks")]
    asking = [
        path for floor in floors for path in floor.rglob("*.py") if re.search(r"version\(.vqrae.\)", path.read_text())
    ]
    assert asking == [ROOT / "vqrae" / "__init__.py"]


def installs(page: Path) -> list[str]:
    return re.findall(r"^pip install .*'\.\[.*$", page.read_text(encoding="utf-8"), re.MULTILINE)


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if installs(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_an_install_from_this_folder_takes_the_versions_that_were_tested(page: Path) -> None:
    tested = (ROOT / "constraints.txt").read_text().split()
    for line in installs(page):
        assert "-c constraints.txt " in line
        if re.search(r"\[.*\b(export|train)\b", line):
            assert set(re.findall(r"\btorch==\S+", line)) & set(tested), "else pip may take any build of torch"


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all that is installed for these tests but vqrae itself."""
    folder = tmp_path_factory.mktemp("dependencies")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "vqrae" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


class Machine:
    """A copy of the checkout, and an environment of its own in which it is installed, or not."""

    def __init__(self, home: Path, dependencies: Path, options: list[str] | None) -> None:
        self.root = Path(shutil.copytree(ROOT, home / "checkout", ignore=shutil.ignore_patterns(*NOT_THE_TREE)))
        self.elsewhere = home / "elsewhere"
        self.elsewhere.mkdir()
        venv.create(home / "venv", with_pip=False)
        self.python = home / "venv" / "bin" / "python"
        self.site = home / "venv" / "lib" / Path(sysconfig.get_path("purelib")).parent.name / "site-packages"
        (self.site / "dependencies.pth").write_text(str(dependencies))
        if options is not None:
            install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *options]
            done = self.run(*install, self.root, cwd=self.elsewhere)
            assert done.returncode == 0, done.stderr

    def run(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [self.python, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    def places(self, cwd: Path) -> list[Path]:
        """Where the code comes from: first the namespace's folders, then some files."""
        done = self.run("-c", WHERE, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return [Path(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise")
@pytest.mark.parametrize("kind", OPTIONS)
def test_everything_runs_from_the_repository_s_own_folder(kind: str, dependencies: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path, dependencies, OPTIONS[kind])
    assert all(place.is_relative_to(machine.root) for place in machine.places(machine.root))
    assert "Usage:" in machine.run("-m", "vqrae", "--help", cwd=machine.root).stdout
    told = machine.run("-m", "vqrae", "doctor", cwd=machine.root)
    assert (told.returncode, "onnxruntime" in told.stdout) == (0, True), told.stderr
    if kind == "none":
        assert "No module named 'vqrae'" in machine.run("-c", WHERE, cwd=machine.elsewhere).stderr
        return
    home = machine.site if kind == "plain" else machine.root
    assert all(place.is_relative_to(home) for place in machine.places(machine.elsewhere))
    if kind == "plain":
        assert machine.places(machine.elsewhere)[0] == machine.site / "vqrae"
        assert machine.places(machine.elsewhere)[1].name == "__init__.py", "no other folder belongs to the namespace"


def modules_of_the_tree() -> set[str]:
    """All but the studies, which are for who has the repository."""
    floors = {name: ROOT / name for name in ("runtimes", "calibration", "export", "benchmarks")} | {"": ROOT / "vqrae"}
    paths = [("vqrae", name, path.relative_to(home)) for name, home in floors.items() for path in home.rglob("*.py")]
    names = {".".join(filter(None, (*parts, *path.with_suffix("").parts))) for *parts, path in paths}
    return {name.removesuffix(".__init__") for name in names if ".studies" not in name} - {"vqrae"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise")
def test_the_wheel_holds_every_module_but_the_studies_and_each_is_imported(dependencies: Path, tmp_path: Path) -> None:
    """Where its dependency is there: nearly all are."""
    machine = Machine(tmp_path, dependencies, OPTIONS["plain"])
    done = machine.run("-c", IMPORTS, cwd=machine.elsewhere)
    assert done.returncode == 0, done.stderr
    imported, absent = json.loads(done.stdout.splitlines()[-1])
    assert {*imported, *absent} == modules_of_the_tree()
    assert len(absent) < 0.1 * len(imported), absent
    files = {path.relative_to(machine.site / "vqrae").as_posix() for path in (machine.site / "vqrae").rglob("*.*")}
    assert not [name for name in files if "studies" in name]
    assert {name for name in files if not name.endswith((".py", ".pyc"))} == {
        "py.typed",
        "benchmarks/report/report.html.jinja",
    }
