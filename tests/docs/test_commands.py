"""Every command that any page shows exists, with every option that it is shown with, and every program compiles.

The runtimes' pages and the tutorials are run as well (test_how_to.py); what the others show would take too long.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from vqrae.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("README.md"))
PAGES = [page for page in PAGES if "node_modules" not in page.parts]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    found = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return ((language, text) for _, language, text in found)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each line that calls `vqrae`, behind an environment variable, a launcher or a pipe too."""
    for language, text in blocks(page):
        if language in ("python", "json", "text"):
            continue
        for line in re.sub(r"\\\n", " ", text).splitlines():
            called = re.search(r"(?:^|-m |\| |&& )vqrae (?![=.])(.*)", line.strip())
            if called:
                yield shlex.split(called[1].split(" | ")[0].split(" && ")[0], comments=True)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=name)
def test_every_command_and_option_exists(page: Path) -> None:
    for verb, *words in commands(page):
        assert verb in COMMANDS, f"vqrae {verb}"
        known = {
            option for parameter in COMMANDS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
        assert used <= known | {"--help"}, f"vqrae {verb} {' '.join(words)}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(kind == "python" for kind, _ in blocks(page))], ids=name
)
def test_every_program_compiles(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            compile(text, str(page), "exec")


def test_a_command_that_does_not_exist_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\npip install x && vqrae nothing --at all | cat\n```\n")
    assert list(commands(page)) == [["nothing", "--at", "all"]]
