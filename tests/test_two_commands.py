"""`make test` and `make docs` do what they say on any machine: a run ends whatever a test does, and says what it left.

Toys are run under the settings of `make test`, with shorter limits.
"""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="make is not installed")
FINE = "def test_fine():\n    pass\n"
OWN_PROCESS = {"os.abort", "os.kill", "os.killpg", "signal.alarm", "signal.pthread_kill", "signal.raise_signal"}
OWN_PROCESS |= {"signal.setitimer", "signal.sigqueue"}


def called(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_no_test_sends_a_signal_to_its_own_process() -> None:
    """Only a child's `terminate`, `kill` and `send_signal`: what handles a signal here is not ours to know."""
    senders = {path.name: found for path in (ROOT / "tests").rglob("*.py") if (found := called(path) & OWN_PROCESS)}
    assert senders == {}


def recipe(target: str, folder: Path = ROOT) -> str:
    command = [str(MAKE), "--dry-run", "--always-make", target]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@needs_make
def test_make_docs_makes_the_environment_and_the_nested_view_first(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    made = recipe("docs", tmp_path)
    assert 0 < made.index("pip install") < made.index("build/nested/vqrae") < made.index("mkdocs build")


@needs_make
def test_a_browser_is_there_before_the_slow_tests_which_ci_runs_too() -> None:
    made = recipe("test-slow")
    assert 0 < made.index(".ci/chromium") < made.index("bin/pytest")
    assert {"make check", "make test", "make test-slow"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(("there", "code"), [("chromium", 0), ("google-chrome", 0), ("nothing", 1)])
def test_a_browser_is_installed_only_where_there_is_none(tmp_path: Path, there: str, code: int) -> None:
    for name in ("bash", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    (tmp_path / there).symlink_to("/bin/true")
    command = [str(shutil.which("bash")), ROOT / ".ci" / "chromium"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (code, code), done.stderr


def run_of_toys(folder: Path, *options: str, **toys: str) -> subprocess.CompletedProcess[str]:
    """Run toy files on two processes, with the options of `make test` and the settings of pyproject.toml."""
    for name, text in toys.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    line = next(line for line in recipe("test").splitlines() if "bin/pytest" in line)
    given = shlex.split(line)[1:]
    given[given.index("auto")] = "2"
    command = [sys.executable, "-m", "pytest", *given, "-c", ROOT / "pyproject.toml", "--rootdir", folder, folder]
    command += ["-p", "no:cacheprovider", *options]
    # In their folder and on a wide terminal, so that the summary's lines are whole.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), "COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, env=environment, cwd=folder
    )


def test_repeated_runs_go_on_from_their_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("tests/a.py\t1\tpassed\t1.0\n# 1 runs, 0 failed\ntests/a.py\t2\tfailed\t1.0\n")
    command = [sys.executable, ROOT / ".ci" / "repeat", log, "--times", "2", "tests/a.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "# 2 runs, 1 failed\n"), "nothing was left to do"
    assert log.read_text().endswith(done.stdout)


@pytest.mark.slow
@needs_make
def test_a_worker_that_dies_ends_the_run_and_names_its_test(tmp_path: Path) -> None:
    dies = "import os\n\ndef test_dies():\n    os._exit(9)\n"
    ended = run_of_toys(tmp_path, test_a=FINE, test_b=dies, test_c=FINE, test_d=FINE)
    assert ended.returncode == 1
    assert "crashed while running 'test_b.py::test_dies'" in ended.stdout


@pytest.mark.slow
@needs_make
def test_a_test_that_waits_for_ever_fails_and_the_others_are_run(tmp_path: Path) -> None:
    waits = "import queue\n\ndef test_waits():\n    queue.Queue().get()\n"
    ended = run_of_toys(tmp_path, "--timeout", "2", test_a=FINE, test_b=waits, test_c=FINE)
    assert ended.returncode == 1
    assert "FAILED test_b.py::test_waits - Failed: Timeout" in ended.stdout
    assert "queue.Queue().get()" in ended.stdout, "where it waited"
    assert "1 failed, 2 passed" in ended.stdout


@pytest.mark.slow
@needs_make
def test_native_code_that_hangs_ends_the_run_with_its_stack(tmp_path: Path) -> None:
    """It holds Python's lock, so nothing in Python can end it."""
    hangs = "import ctypes\n\ndef test_hangs():\n    ctypes.PyDLL(None).sleep(100)\n"
    ended = run_of_toys(tmp_path, "-o", "faulthandler_timeout=3", test_a=FINE, test_b=hangs)
    assert ended.returncode == 1
    assert "crashed while running 'test_b.py::test_hangs'" in ended.stdout
    assert "in test_hangs" in ended.stderr + ended.stdout


@pytest.mark.slow
@needs_make
def test_a_run_ends_with_one_line_of_what_was_not_run_and_why(tmp_path: Path) -> None:
    skips = "import pytest\n\n@pytest.mark.skipif(True, reason='no GPU')\n@pytest.mark.parametrize('a', [1, 2])\n"
    skips += "def test_gpu(a):\n    pass\n\n@pytest.mark.slow\ndef test_slow():\n    pass\n"
    hooks = (ROOT / "tests" / "support" / "not_run.py").read_text(encoding="utf-8")
    ended = run_of_toys(tmp_path, conftest=hooks, test_a=FINE, test_b=skips)
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-2] == "not run: 3 (no GPU: 2; deselected by -m 'not slow': 1)"
