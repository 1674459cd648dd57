"""The report: one HTML file that fetches nothing, with the verdict on top and the evidence below it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.benchmarks.report.charts import histogram, latency_bars, rooflines
from vqrae.benchmarks.report.figures import significant
from vqrae.benchmarks.report.picture import check_pairs
from vqrae.benchmarks.report.reconstructions import Reconstructions
from vqrae.benchmarks.report.table import (
    FOOTPRINT_COLUMNS,
    Groups,
    busy_warning,
    clock_notes,
    handling_notes,
    limit_notes,
    row_names,
    speed_columns,
    threads,
    throughput_notes,
)
from vqrae.benchmarks.report.verdicts import headline, overall_gate, verdict
from vqrae.benchmarks.rows import BenchResult, BenchRow
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import Manifest
from vqrae.runtimes.parity import psnr_db
from vqrae.runtimes.staging import write_output

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise RuntimeUnavailable(
        "jinja2 is not installed", remedy="Install it with `pip install 'vqrae[export]'`"
    ) from error

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, ready for the page."""

    label: str
    """Whose it is."""
    uri: str
    """A PNG as a data URI."""
    psnr: str
    """Against the photograph; empty for the photograph itself."""


def write_report(
    path: Path | str,
    result: BenchResult,
    manifests: Sequence[Manifest],
    *,
    title: str,
    pictures: Reconstructions | None = None,
) -> None:
    """Write the report as an HTML file.

    Args:
        path: the file; it is replaced if it exists.
        result: the benchmark.
        manifests: of the bundles in it; their evidence gives the verdict.
        title: what the report is about, for example the tokenizer's name.
        pictures: photographs and what each runtime keeps of them; None leaves them out.

    Raises:
        ImageError: the pictures' shapes or counts differ.
        StorageError: the file cannot be written.
    """
    html = render_report(result, manifests, title=title, pictures=pictures)
    write_output(path, html)


def render_report(
    result: BenchResult, manifests: Sequence[Manifest], *, title: str, pictures: Reconstructions | None = None
) -> str:
    """The report as HTML; arguments and errors as for `write_report`."""
    environment = Environment(
        loader=PackageLoader("vqrae.benchmarks.report.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    verdicts = [verdict(manifest) for manifest in manifests]
    return environment.get_template(TEMPLATE).render(
        title=title,
        gate=overall_gate(verdicts),
        headline=headline(verdicts),
        summary=[line for graph in ("encode", "decode") if (line := speed_summary(result, graph))],
        random_weights=any(manifest.checkpoint.random_weights for manifest in manifests),
        verdicts=[(item, histogram(item.figures) if item.figures else None) for item in verdicts],
        strips=_strips(pictures) if pictures else [],
        groups=[(name, latency_bars(row_names(rows), rows)) for name, rows in result.groups()],
        speed_columns=speed_columns(result),
        rooflines=rooflines(result),
        limit_notes=limit_notes(result),
        throughput_notes=throughput_notes(result),
        handling_notes=handling_notes(result),
        clock_notes=clock_notes(result),
        speed_rows=_named(result.groups()),
        footprint_columns=FOOTPRINT_COLUMNS,
        footprint_rows=_named(result.footprint_groups()),
        warning=busy_warning(result),
        threads=threads(result),
        result=result,
    )


def speed_summary(result: BenchResult, graph: str) -> str:
    """The fastest bundle against PyTorch at the first batch size, in one sentence.

    Empty if there is no such pair, or the machine was busy with something else: then nothing is claimed.
    """
    group = next((rows for _, rows in result.groups() if rows[0].graph == graph), [])
    rivals = [row for row in group[1:] if row.kind == "bundle" and row.p50_ms is not None]
    if not rivals or group[0].gate != "reference" or result.busy:
        return ""
    best = min(rivals, key=lambda row: row.p50_ms or 0)
    verb = {"encode": "encodes", "decode": "decodes"}[graph]
    images = "an image" if best.batch == 1 else f"{best.batch} images"
    speed = f"{best.speedup:.2f} times as fast as PyTorch" if best.resolved else "no different from PyTorch"
    return f"{best.label} {verb} {images} in {significant(best.p50_ms)} ms, {speed}."


def _named(groups: Groups) -> list[tuple[str, list[tuple[str, BenchRow]]]]:
    """Groups whose rows have the names that a reader knows them by."""
    return [(title, list(zip(row_names(rows), rows, strict=True))) for title, rows in groups]


def _strips(pictures: Reconstructions) -> list[tuple[str, list[Picture]]]:
    """For each photograph its label, itself, and its reconstructions side by side."""
    for images in pictures.of.values():
        check_pairs(pictures.originals, images, pictures.labels)
    return [
        (label, [Picture(label="photograph", uri=_data_uri(original), psnr=""), *_kept(pictures, number)])
        for number, (label, original) in enumerate(zip(pictures.labels, pictures.originals, strict=True))
    ]


def _kept(pictures: Reconstructions, number: int) -> Iterator[Picture]:
    original = pictures.originals[number]
    for name, images in pictures.of.items():
        psnr = f"{psnr_db(original, images[number]):.1f} dB"
        yield Picture(label=name, uri=_data_uri(images[number]), psnr=psnr)


def _data_uri(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
