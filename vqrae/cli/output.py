"""How results are printed: JSON for programs on standard output, a table for people, progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
progress_console = Console(stderr=True)


def print_json(value: BaseModel | Sequence[BaseModel] | Mapping[str, Any]) -> None:
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


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))  # `vqrae[export]` is no markup
    console.print(table)


def print_fields(title: str, fields: Mapping[str, object]) -> None:
    """Print names and values, one to a line."""
    console.print(title, style="bold")
    width = max(map(len, fields))
    for name, value in fields.items():
        console.print(f"  {name:<{width}}  {value}", highlight=False, markup=False, soft_wrap=True)
