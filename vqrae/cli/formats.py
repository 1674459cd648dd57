"""`vqrae formats`: what a checkpoint can be exported to, and the options of each format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqrae.cli.options import AsJson

if TYPE_CHECKING:
    from vqrae.export.formats.format import Format


def formats(as_json: AsJson = False) -> None:
    """Show the formats of `vqrae export`, their precisions, kinds of batch, and options; nothing heavy is loaded."""
    from vqrae.cli.output import console, print_fields, print_json
    from vqrae.export.formats import FORMATS, format_of

    rows = {name: _described(name, format_of(name)) for name in FORMATS}
    if as_json:
        print_json(rows)
        return
    for name, row in rows.items():
        shown = {key: ", ".join(row[key]) or "none" for key in ("precisions", "batch", "aliases")}
        for option, it in row["options"].items():
            shown[f"--option {option}"] = f"{it['help']} [{it['default']}]"
        print_fields(name, shown)
        console.print()


def _described(name: str, entry: Format) -> dict[str, Any]:
    from vqrae.export.formats import ALIASES

    options = {
        field.replace("_", "-"): {"default": _plain(info.default), "help": info.description}
        for field, info in entry.options.model_fields.items()
    }
    aliases = [alias for alias, meant in ALIASES.items() if meant == name]
    return {
        "runtime": entry.runtime,
        "precisions": entry.precisions,
        "batch": entry.batches,
        "aliases": aliases,
        "options": options,
    }


def _plain(value: Any) -> Any:
    """A default as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else value
