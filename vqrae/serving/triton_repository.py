"""A bundle as a model repository of Triton Inference Server: `encode`, `decode`, and the ensemble `reconstruct`.

The folder is laid out and configured as Triton's documents say ("Model Repository", "Model Configuration"). Models keep
the names, tensors and dtypes of the manifest, so a client of `vqrae serve` is a client of this too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, UsageError
from vqrae.runtimes.manifest import GraphSpec, TensorSpec
from vqrae.runtimes.staging import staged_folder

MAX_BATCH = 32
"""Images that Triton computes together, where the bundle names no limit of its own."""
MAX_QUEUE = 256
"""Requests that wait at most; Triton refuses more at once."""
BACKENDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
"""Runtime -> the backend that loads its artifacts unchanged."""
_PARAMETERS = {"openvino": {"ENABLE_BATCH_PADDING": "YES"}}  # else it refuses a batch that is not full
_DTYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


class _Word(str):
    """A name that the text format writes without quotes: one of an enumeration."""

    __slots__ = ()


def write_triton_repository(
    bundle: Path | str, folder: Path | str, *, max_batch: int | None = None, overwrite: bool = False
) -> Path:
    """Write a bundle as a model repository.

    Args:
        bundle: the bundle's folder; every hash is checked first.
        folder: the repository to make.
        max_batch: images that Triton computes together at most; None is what the bundle takes, or 32.
        overwrite: whether a folder that is there is replaced.

    Raises:
        BundleError: the bundle is incomplete or changed, or lacks a graph.
        UsageError: Triton has no backend for it, `max_batch` does not fit it, or `folder` exists.
        StorageError: the operating system refused to read or write.
    """
    opened = Bundle.open(bundle)
    _check_runtime(opened)
    batches = {name: _max_batch(opened, name, max_batch) for name in ("encode", "decode")}
    with staged_folder(folder, overwrite=overwrite) as staging:
        for name, most in batches.items():
            graph = opened.manifest.graphs[name]
            _copy_graph(opened, graph, staging / name / "1")
            _write_config(staging / name, _model(opened, name, graph, most))
        (staging / "reconstruct" / "1").mkdir(parents=True)
        (staging / "reconstruct" / "1" / ".keep").touch()  # some copies leave out an empty folder, which Triton needs
        _write_config(staging / "reconstruct", _ensemble(opened, min(batches.values())))
    return Path(folder)


def _check_runtime(bundle: Bundle) -> None:
    manifest = bundle.manifest
    runtime, precision = manifest.runtime.name, manifest.precision.kind
    if runtime not in BACKENDS:
        expected = f"one for {', '.join(BACKENDS)}, which Triton has backends for"
        raise UsageError(str(bundle.path), got=f"a bundle for {runtime}", expected=expected, remedy="export another")
    if runtime == "onnxruntime" and precision.quantized and not precision.integer_products:
        got = "weights in INT8 for onnxruntime, which Triton's backend would multiply in INT8 too"
        raise UsageError(str(bundle.path), got=got, expected="another precision or runtime")


def _max_batch(bundle: Bundle, name: str, wanted: int | None) -> int:
    """What Triton calls `max_batch_size`: 0 where the batch is fixed, and the shapes are whole.

    Raises:
        BundleError: the bundle has no such graph.
        UsageError: it does not take that many, or not as few as Triton may send.
    """
    graph = bundle.manifest.graphs.get(name)
    if graph is None:
        raise BundleError(str(bundle.path), got="other graphs", expected=f"a graph {name}", remedy="export it again")
    limits = graph.batch_limits
    if graph.fixed_batch is not None:
        if wanted is not None and wanted != graph.fixed_batch:
            got, expected = str(wanted), f"{graph.fixed_batch}, which {name} was built for"
            raise UsageError("--max-batch", got=got, expected=expected, remedy="export it with a dynamic --batch")
        return 0
    if limits is not None and (limits.only or limits.least > 1):
        remedy = "export it with --batch 1:BEST:MOST"
        raise UsageError(str(bundle.path), got=f"batches of {limits}", expected="all from 1", remedy=remedy)
    most = MAX_BATCH if limits is None else limits.most
    if limits is not None and wanted is not None and wanted > most:
        raise UsageError("--max-batch", got=str(wanted), expected=f"at most {most}, which {name} was built for")
    return wanted or most


def _copy_graph(bundle: Bundle, graph: GraphSpec, target: Path) -> None:
    """The graph's file and those that it reads, under their own names, beside each other as they were."""
    for path in (graph.file, *graph.extra_files):
        copy = target / PurePosixPath(path).relative_to(PurePosixPath(graph.file).parent)
        bundle.copy(path, copy)


def _model(bundle: Bundle, name: str, graph: GraphSpec, max_batch: int) -> dict[str, Any]:
    runtime = bundle.manifest.runtime.name
    config: dict[str, Any] = {
        "name": name,
        "backend": BACKENDS[runtime],
        "default_model_filename": PurePosixPath(graph.file).name,
        "max_batch_size": max_batch,
        "input": [_tensor(tensor, max_batch) for tensor in graph.inputs],
        "output": [_tensor(tensor, max_batch) for tensor in graph.outputs],
    }
    if max_batch > 1:
        best = graph.batch_limits.best if graph.batch_limits else None
        batching: dict[str, Any] = {"preferred_batch_size": [best]} if best and best <= max_batch else {}
        config["dynamic_batching"] = {**batching, "default_queue_policy": {"max_queue_size": MAX_QUEUE}}
    return config | {"parameters": _parameters(_PARAMETERS.get(runtime, {}) | _identity(bundle))}


def _ensemble(bundle: Bundle, max_batch: int) -> dict[str, Any]:
    """Images to tokens and back within the server; the features are not passed on."""
    graphs = bundle.manifest.graphs
    images, indices = graphs["encode"].inputs[0], graphs["encode"].outputs[0]
    reconstructed = graphs["decode"].outputs[0].model_copy(update={"name": "reconstructions"})
    steps = [
        _step("encode", {"images": "images"}, {"indices": "indices"}),
        _step("decode", {"indices": "indices"}, {"images": "reconstructions"}),
    ]
    return {
        "name": "reconstruct",
        "platform": "ensemble",
        "max_batch_size": max_batch,
        "input": [_tensor(images, max_batch)],
        "output": [_tensor(indices, max_batch), _tensor(reconstructed, max_batch)],
        "ensemble_scheduling": {"step": steps},
        "parameters": _parameters(_identity(bundle)),
    }


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _tensor(tensor: TensorSpec, max_batch: int) -> dict[str, Any]:
    """Without its batch axis, where Triton makes batches."""
    shape = tensor.shape[1:] if max_batch else tensor.shape
    return {"name": tensor.name, "data_type": _Word(_DTYPES[tensor.dtype]), "dims": list(shape)}


def _identity(bundle: Bundle) -> dict[str, str]:
    """What a client has to know besides, as `GET v2/models/NAME/config` gives it."""
    manifest = bundle.manifest
    return {
        "vqrae.bundle": manifest.name,
        "vqrae.manifest_sha256": bundle.sha256,
        "vqrae.preprocessing": manifest.preprocessing.rule,
        "vqrae.codebook_size": str(manifest.tokens.codebook_size),
    }


def _parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.pbtxt").write_text("\n".join(_text(config)) + "\n", encoding="utf-8")


def _text(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Protocol buffers' text format: a list repeats its field."""
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{indent}{name} {{"
                yield from _text(one, indent + "  ")
                yield f"{indent}}}"
            elif isinstance(one, _Word):
                yield f"{indent}{name}: {one}"
            else:
                yield f"{indent}{name}: {json.dumps(one, ensure_ascii=False)}"
