"""`vqrae doctor`: what works on this machine, and the command that adds what does not."""

from __future__ import annotations

from importlib import import_module, metadata

from vqrae.cli.options import AsJson

PACKAGES = {
    "torch": "export",
    "transformers": "export",
    "safetensors": "export",
    "onnx": "export",
    "onnxscript": "export",
    "polygraphy": "export",
    "jinja2": "export",
    "skimage": "export",
    "sklearn": "export",
}
"""Import name -> the extra of this project that brings it. Runtimes are looked up in their own table."""


def doctor(as_json: AsJson = False) -> None:
    """Show the runtimes and packages that are installed here, and how to add the others."""
    from vqrae.cli.output import print_json, print_table
    from vqrae.runtimes.machine import this_machine

    runtimes, packages = _runtimes(), _packages()
    if as_json:
        print_json({"machine": this_machine(), "runtimes": runtimes, "packages": packages})
        return
    print_table(
        f"Machine: {this_machine()}", ("runtime", "version", "works", "why not", "add it"), map(_cells, runtimes)
    )
    print_table("", ("package", "version", "works", "why not", "add it"), map(_cells, packages))


def _runtimes() -> list[dict[str, str | bool | None]]:
    from vqrae.runtimes.errors import RuntimeUnavailable
    from vqrae.runtimes.registry import RUNTIMES, runtime_version, session_class

    rows = []
    for name, entry in RUNTIMES.items():
        problem = None
        try:
            session_class(name)
        except RuntimeUnavailable as error:
            problem = str(error)
        installed = [wheel for wheel in entry.distributions if _version(wheel)]
        if len(installed) > 1:
            problem = f"{' and '.join(installed)} share one folder: `pip uninstall -y {' '.join(installed)}` first"
        rows.append(_row(name, runtime_version(name), problem, entry.extra))
    return rows


def _packages() -> list[dict[str, str | bool | None]]:
    rows = []
    distributions = metadata.packages_distributions()
    for name, extra in PACKAGES.items():
        problem = None
        try:
            import_module(name)
        except ImportError as error:
            problem = str(error)
        rows.append(_row(name, _version(distributions.get(name, [name])[0]), problem, extra))
    return rows


def _row(name: str, version: str | None, problem: str | None, extra: str) -> dict[str, str | bool | None]:
    command = None if problem is None else f"pip install 'vqrae[{extra}]'"
    return {"name": name, "version": version, "works": problem is None, "problem": problem, "add_it": command}


def _cells(row: dict[str, str | bool | None]) -> tuple[str, ...]:
    works = "yes" if row["works"] else "no"
    return tuple(str(cell or "") for cell in (row["name"], row["version"], works, row["problem"], row["add_it"]))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
