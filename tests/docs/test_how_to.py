"""Every line of code in the runtimes' pages and the tutorials is run, in the order of the page, in a folder of its own.

`sh` blocks are commands of ours, `python` blocks are programs; those marked `gpu` must end with exit code 4, or with
RuntimeUnavailable, where there is no GPU. `console` blocks install: they are checked against pyproject.toml.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from skimage import data

from vqrae.cli.app import main
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.registry import session_class

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "how-to" / f"{runtime}.md" for runtime in ("coreml", "onnxruntime", "openvino", "tensorrt")]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class Block(NamedTuple):
    language: str
    needs_gpu: bool
    code: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)( gpu)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, bool(mark), code) for language, mark, code in found]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a reader stands: the shipped tokenizer and a photograph."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    Image.fromarray(data.coffee()).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gpu_runs(runtime: str) -> bool:
    try:
        session_class(runtime).probe()
    except RuntimeUnavailable:
        return False
    return True


def run_commands(code: str, expected: int) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "vqrae", line
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == expected, line


def run_program(code: str, page: Path, *, refused: bool) -> None:
    program = compile(code, str(page), "exec")
    if refused:
        with pytest.raises(RuntimeUnavailable):
            exec(program, {"__name__": "page"})  # noqa: S102 - our own page
    else:
        exec(program, {"__name__": "page"})  # noqa: S102 - our own page


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES + TUTORIALS, ids=lambda page: page.stem)
def test_every_line_of_code_runs(page: Path) -> None:
    gpu = any(gpu_runs(runtime) for runtime in ("tensorrt", "tensorrt-rtx"))
    for block in blocks(page):
        refused = block.needs_gpu and not gpu
        if block.language == "sh":
            run_commands(block.code, 4 if refused else 0)
        elif block.language == "python":
            run_program(block.code, page, refused=refused)
        else:
            assert block.language == "console", "a language that nothing here runs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_how_to_install_export_and_run_and_its_limits(page: Path) -> None:
    headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
    assert headings[:3] == ["Install", "Export", "Run"]
    assert headings[-1] == "Known limits"
    programs = [block.code for block in blocks(page) if block.language == "python"]
    assert len(programs[0].strip().splitlines()) <= 10


@pytest.mark.parametrize("page", PAGES + TUTORIALS, ids=lambda page: page.stem)
def test_what_it_says_to_install_exists(page: Path) -> None:
    named = re.findall(r"vqrae\[([\w,-]+)\]", page.read_text())
    assert named
    assert {extra for group in named for extra in group.split(",")} <= set(EXTRAS)
