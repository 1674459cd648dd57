"""The documentation's site, built as `make docs` builds it: a warning is an error."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vqrae
from vqrae.cli.app import VERBS

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="the site is not built: make is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    # The floors as one package, which is what the API's pages are read from; nothing is installed for that.
    subprocess.run(
        [str(MAKE), "-s", "-o", ".venv/.installed", "build/nested"], cwd=ROOT, check=True, capture_output=True
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    return folder


def ids(page: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))


def test_every_verb_has_its_section(site: Path) -> None:
    assert {f"vqrae-{verb}" for verb in VERBS} <= ids(site / "reference" / "cli.html")


def test_every_public_name_is_described(site: Path) -> None:
    described = {name.rpartition(".")[2] for name in ids(site / "reference" / "api.html")}
    assert set(vqrae.__all__) <= described
    assert {"Bundle", "Manifest", "pack", "unpack", "prepare", "selftest", "VqraeError"} <= described
    assert "SignatureError" in (site / "reference" / "api.html").read_text(encoding="utf-8"), "the tree of errors"


def test_every_table_of_the_figures_is_shown(site: Path) -> None:
    page = (ROOT / "docs" / "figures" / "benchmarks.md").read_text(encoding="utf-8")
    shown = (site / "figures" / "benchmarks.html").read_text(encoding="utf-8")
    assert shown.count("<table>") == len(re.findall(r"^ *\|[-:| ]+\|$", page, re.MULTILINE)) > 2
    assert "PyTorch FP32" in shown


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\" >]+)", text)
        assert [address for address in fetched if "canonical" not in address] == [], page.name
