"""`vqrae doctor`: what works on this machine, and the command that adds what does not."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from vqrae.cli.options import AsJson

if TYPE_CHECKING:
    from vqrae.runtimes.errors import VqraeError

Row = dict[str, str | bool | None]

PACKAGES = {
    "torch": "export",
    "transformers": "export",
    "safetensors": "export",
    "cryptography": "sign",
    "onnx": "export",
    "onnxscript": "export",
    "polygraphy": "export",
    "jinja2": "export",
    "matplotlib": "plan",
    "pyarrow": "parquet",
    "skimage": "export",
    "sklearn": "export",
}
"""Import name -> the extra of this project that brings it. Runtimes are looked up in their own table."""


def doctor(as_json: AsJson = False) -> None:
    """Show the runtimes and packages that are installed here, and how to add the others.

    A runtime works if it has just loaded and run a tiny graph.
    """
    from vqrae.cli.output import print_json, print_table, progress_console
    from vqrae.runtimes.machine import this_machine

    with progress_console.status("running a tiny graph on every runtime"):
        runtimes, packages = _runtimes(), _packages()
    if as_json:
        print_json({"machine": this_machine(), "runtimes": runtimes, "packages": packages})
        return
    columns = ("version", "works", "what ran, or why not", "add it")
    print_table(f"Machine: {this_machine()}", ("runtime", *columns), map(_cells, runtimes))
    print_table("", ("package", *columns), map(_cells, packages))


def _runtimes() -> list[Row]:
    from vqrae.runtimes.registry import RUNTIMES

    return [_runtime(name) for name in RUNTIMES]


def _runtime(name: str) -> Row:
    """One runtime: installed, importable, alone in its folder, and able to run a tiny graph."""
    from vqrae.runtimes.errors import RuntimeUnavailable
    from vqrae.runtimes.registry import runtime_version, session_class

    ran = problem = command = None
    try:
        ran = session_class(name).probe()
    except RuntimeUnavailable as error:
        problem, command = _reason(error), _command(error.remedy)
    return _row(name, runtime_version(name), problem, command, ran)


def _reason(error: VqraeError) -> str:
    """The error without its remedy, which has a column of its own."""
    return str(type(error)(error.subject, got=error.got, expected=error.expected))


def _command(remedy: str | None) -> str | None:
    """The command that a remedy quotes, or all of it."""
    return (remedy and remedy.partition("`")[2].partition("`")[0]) or remedy


def _packages() -> list[Row]:
    rows = []
    distributions = metadata.packages_distributions()
    for name, extra in PACKAGES.items():
        problem = None
        try:
            import_module(name)
        except ImportError as error:
            problem = str(error)
        command = None if problem is None else f"pip install 'vqrae[{extra}]'"
        rows.append(_row(name, _version(distributions.get(name, [name])[0]), problem, command))
    return rows


def _row(name: str, version: str | None, problem: str | None, command: str | None, ran: str | None = None) -> Row:
    works = problem is None
    return {"name": name, "version": version, "works": works, "ran": ran, "problem": problem, "add_it": command}


def _cells(row: Row) -> tuple[str, ...]:
    works = "yes" if row["works"] else "no"
    cells = (row["name"], row["version"], works, row["problem"] or row["ran"], row["add_it"])
    return tuple(str(cell or "") for cell in cells)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
