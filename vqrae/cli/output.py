"""How results are printed: JSON for programs on standard output, a table for people, progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vqrae.runtimes.errors import printable


class Terminal(Console):
    """Text is text, wherever it comes from: neither its brackets nor its control characters mean anything."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does it, without markup."""
        return super().render_str(printable(text), **{**options, "markup": False})


console = Terminal()
progress_console = Terminal(stderr=True)


def print_json(value: BaseModel | Sequence[BaseModel | Mapping[str, Any]] | Mapping[str, Any]) -> None:
    """Print models or plain values as indented JSON."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table; the first column is left-aligned, the others right unless they hold sentences."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, collapse_padding=True)
    lines = [tuple(row) for row in rows]
    for number, column in enumerate(columns):
        prose = number == 0 or any(" " in line[number].strip() for line in lines)
        made.add_column(column, justify="left" if prose else "right", overflow="fold")
    for row in lines:
        made.add_row(*row)
    return made


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table below its title."""
    if title:
        console.print(title, style="bold", highlight=False, soft_wrap=True)
    console.print(table(columns, rows))


def print_fields(title: str, fields: Mapping[str, object]) -> None:
    """Print names and values, one to a line."""
    console.print(title, style="bold")
    width = max(map(len, fields))
    for name, value in fields.items():
        console.print(f"  {name:<{width}}  {value}", highlight=False, markup=False, soft_wrap=True)


def print_note(text: str) -> None:
    """Tell on standard error what somebody should know of, though the work goes on."""
    progress_console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
