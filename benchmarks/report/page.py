"""A page of figures in docs/, which whoever reads it can make again, and its plots."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from vqrae.benchmarks.measure.conditions import installed_versions
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.staging import staged_file, write_output


def write_page(path: Path, text: str, module: str | None = None) -> None:
    """Write a page that ends with the machine, the versions, and the command that made it.

    Args:
        path: Markdown file.
        text: what it says.
        module: the program that runs, as `python -m` knows it; None is `vqrae`. Its arguments are this process's.

    Raises:
        StorageError: the operating system refused to write.
    """
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    program = ["vqrae"] if module is None else ["python", "-m", module]
    command = shlex.join([*program, *sys.argv[1:]])
    write_output(path, f"{text}\n{this_machine()}.\n\n{versions}; `{command}`.\n")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as an SVG; the same data give the same bytes.

    Raises:
        StorageError: the operating system refused to write.
    """
    with mpl.rc_context({"svg.hashsalt": "vqrae", "svg.fonttype": "none"}), staged_file(path) as staging:
        figure.savefig(staging, format="svg", metadata={"Date": None})
