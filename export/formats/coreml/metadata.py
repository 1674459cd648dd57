"""What Xcode shows of a Core ML package, and the package's own files made the same for the same model every time."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from vqrae import __version__
from vqrae.export.formats.coreml import CoreMLOptions
from vqrae.export.job import ExportJob
from vqrae.runtimes.backends.coreml_spec import SPEC_FILE, WEIGHTS_FOLDER, read_spec
from vqrae.runtimes.manifest import GraphSpec, TensorSpec

PACKAGE_AUTHOR = "com.apple.CoreML"


def write_metadata(path: Path, graph: GraphSpec, job: ExportJob, options: CoreMLOptions) -> None:
    """Describe a package that coremltools has written, and write its files anew: equal models give equal bytes."""
    spec = read_spec(path)
    metadata = spec.description.metadata
    metadata.author, metadata.license = options.author, options.license
    metadata.shortDescription = f"{path.stem} of the image tokenizer {job.name}"
    metadata.versionString = __version__
    metadata.userDefined.update(_facts(job))
    texts = {tensor.name: _description(tensor, job) for tensor in (*graph.inputs, *graph.outputs)}
    for feature in (*spec.description.input, *spec.description.output):
        feature.shortDescription = texts[feature.name]
    for feature in spec.description.input:
        if feature.name == "images":
            feature.shortDescription += f", resized by the rule {job.preprocessing.rule}"
    (path / SPEC_FILE).write_bytes(spec.SerializeToString(deterministic=True))
    _write_contents(path)


def _facts(job: ExportJob) -> dict[str, str]:
    image, (h, w) = job.preprocessing, job.tokens.grid
    return {
        "vqrae.checkpoint": job.name,
        "vqrae.codebook_size": str(job.tokens.codebook_size),
        "vqrae.image_size": f"{image.height}x{image.width}",
        "vqrae.preprocessing": image.rule,
        "vqrae.token_grid": f"{h}x{w}",
    }


def _description(tensor: TensorSpec, job: ExportJob) -> str:
    h, w = job.tokens.grid
    shape = ", ".join(map(str, tensor.shape))
    return {
        "images": f"RGB images ({shape}), numbers from 0 to 255 without fractions",
        "indices": f"token ids ({shape}), from 0 to {job.tokens.codebook_size - 1}",
        "features": f"continuous features ({shape}), row by row of the {h}x{w} token grid",
        "quantized_features": f"features of the chosen codes ({shape}), row by row of the {h}x{w} token grid",
    }[tensor.name]


def _write_contents(path: Path) -> None:
    """Rewrite the package's table of contents, which coremltools fills with random identifiers."""
    items = {SPEC_FILE: "CoreML Model Specification"}
    if (path / WEIGHTS_FOLDER).is_dir():
        items[WEIGHTS_FOLDER] = "CoreML Model Weights"
    entries = {}
    for place, description in items.items():
        inside = Path(place).relative_to("Data")
        entries[_identifier(place)] = {
            "author": PACKAGE_AUTHOR,
            "description": description,
            "name": inside.name,
            "path": inside.as_posix(),
        }
    contents = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier(SPEC_FILE),
    }
    (path / "Manifest.json").write_text(json.dumps(contents, indent=4) + "\n", encoding="utf-8")


def _identifier(place: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"mlpackage:{place}"))
