"""What a format's writer is given, and what it gives back: files and JSON.

So a writer needs neither the tokenizer nor what traced it, and may run in another process or environment. `ExportJob`
becomes JSON by `model_dump_json`, and `Written` is read from it by `model_validate_json`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from vqrae.export.batch import DYNAMIC, Batch
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.manifest import GraphSpec, Preprocessing, RuntimeInfo, Tokens
from vqrae.runtimes.precision import Precision

SOURCE_RUNTIME = "onnxruntime"
"""What runs the ONNX graphs that an engine was built from, where the engine itself cannot run."""


class ExportJob(Record):
    """The graphs of one bundle, to be written in one format."""

    folder: Path
    """Where the artifacts go: the bundle's folder, still a staging one."""
    sources: Path
    """The folder that the graphs lie in."""
    graphs: dict[str, GraphSpec]
    """Name -> the graph that is to be written: an ONNX file, or a program of `torch.export`, as the format takes them,
    with its signature. At INT8, ONNX graphs hold Q/DQ in the format's scheme; programs are in float, and hold the
    parameters that the recipe's smoothing and corrections have changed."""
    scores: dict[str, tuple[str, ...]]
    """Graph -> the modules in it that score the codes, which stay precise."""
    precision: Precision
    """What was asked for, and, of ONNX graphs, what is in them."""
    batch: Batch = DYNAMIC
    options: dict[str, JsonValue]
    """Those of the format's own `FormatOptions` that are not the defaults."""
    recipe: Path | None = None
    """Of programs at INT8: the folder of their `calibration.recipe.Int8Recipe`."""
    name: str
    """The tokenizer's."""
    preprocessing: Preprocessing
    tokens: Tokens
    made_with: dict[str, str]
    """What traced the graphs -> its version."""


class Written(Record):
    """What was written, for the manifest."""

    graphs: dict[str, GraphSpec]
    """`encode` and `decode`, and of a split bundle the parts; paths are relative to the bundle's folder."""
    precision: Precision
    """What was really built, read back from the artifacts where a converter could have decided otherwise."""
    runtime: RuntimeInfo
