"""What the examples need from npm, installed once below build/, and why a test is left out where it cannot be."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
UNREACHABLE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "ETIMEDOUT", "ENOTCACHED")


def program(name: str, what: str) -> str:
    """The path of a program, or the test is left out."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{what}: {name} is not installed")
    return found


@pytest.fixture(scope="session")
def node() -> str:
    return program("node", "no JavaScript is run")


@pytest.fixture(scope="session")
def node_modules(node: str) -> Callable[[str], Path]:
    """Installs what an example's package.json names; again only after it changed. Packages' own scripts are not run."""

    def install(example: str) -> Path:
        npm, wanted = program("npm", "nothing is fetched"), EXAMPLES / example / "package.json"
        home = ROOT / "build" / "npm" / example
        installed = home / "package.json"
        if not installed.is_file() or installed.read_bytes() != wanted.read_bytes():
            shutil.rmtree(home, ignore_errors=True)
            staging = home.with_name(f"{example}.staging")
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            shutil.copyfile(wanted, staging / "package.json")
            command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=staging, capture_output=True, text=True, check=False)
            if any(code in done.stderr for code in UNREACHABLE):
                pytest.skip(f"npm reaches no registry: {done.stderr.strip().splitlines()[0]}")
            assert done.returncode == 0, done.stderr
            staging.rename(home)
        return home / "node_modules"

    return install
