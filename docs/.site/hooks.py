"""What `make docs` makes of other files: the command line's reference, the tree of errors, links out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

ROOT = Path(__file__).parents[2]
CLI_PAGE = "reference/cli.md"
ERRORS = "<!-- the tree of errors -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the reference of the command line, as typer writes it from the verbs themselves."""
    from vqrae.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("vqrae", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="vqrae", title="Command line")
    files.append(File.generated(config, CLI_PAGE, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the tree of errors where a page asks for it, and name the files that a link outside docs/ meant."""
    if ERRORS in markdown:
        from vqrae.runtimes import errors

        markdown = markdown.replace(ERRORS, f"```text\n{errors.__doc__}\n```")
    return re.sub(r"\[([^\]]*)\]\(((?:\.\./)+)([^)#]*)[^)]*\)", lambda link: _inside(link, page), markdown)


def _inside(link: re.Match[str], page: Any) -> str:
    """The link itself, or its text and the file's name where the file is no page: it must be in the repository."""
    label, up, path = link[1], link[2], link[3]
    target = (ROOT / "docs" / page.file.src_uri).parent / up / path
    if target.resolve().is_relative_to(ROOT / "docs"):
        return link[0]
    if not target.exists():
        raise PluginError(f"{page.file.src_uri}: got a link to {up}{path}, which is not in the repository")
    name = target.resolve().relative_to(ROOT).as_posix()
    return f"`{name}`" if label.strip("`") == name else f"{label} (`{name}`)"
