"""Plots as SVG files that do not change when their data do not."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from vqrae.runtimes.staging import staged_file


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as an SVG; the same data give the same bytes.

    Raises:
        StorageError: the operating system refused to write.
    """
    with mpl.rc_context({"svg.hashsalt": "vqrae", "svg.fonttype": "none"}), staged_file(path) as staging:
        figure.savefig(staging, format="svg", metadata={"Date": None})
