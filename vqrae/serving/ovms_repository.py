"""A bundle as a model repository of OpenVINO Model Server: `encode`, `decode`, and the `config.json` that names them.

Started with `--config_path FOLDER/config.json`; paths in it are relative to it. Only bundles that were exported to
OpenVINO are taken: the server reads ONNX too, but computes it in another way than the bundle's evidence is about.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, UsageError
from vqrae.runtimes.manifest import MANIFEST_FILE
from vqrae.runtimes.staging import staged_folder

MODELS = ("encode", "decode")
PLUGIN_CONFIG = {"INFERENCE_PRECISION_HINT": "dynamic", "EXECUTION_MODE_HINT": "ACCURACY"}
"""As `vqrae.load` compiles: the graph's own types decide, where the default takes the fastest of the device (bf16)."""


def write_ovms_repository(bundle: Path | str, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Write a bundle as a model repository.

    Args:
        bundle: the bundle's folder; every hash is checked first.
        folder: the repository to make.
        overwrite: whether a folder that is there is replaced.

    Raises:
        BundleError: the bundle is incomplete or changed, or lacks a graph.
        UsageError: it is not for OpenVINO, or `folder` exists.
        StorageError: the operating system refused to read or write.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    if manifest.runtime.name != "openvino":
        got, remedy = f"a bundle for {manifest.runtime.name}", "export it with --format openvino"
        raise UsageError(str(opened.path), got=got, expected="one for openvino", remedy=remedy)
    if absent := set(MODELS) - manifest.graphs.keys():
        got, expected = f"no graph {min(absent)}", " and ".join(MODELS)
        raise BundleError(str(opened.path), got=got, expected=expected, remedy="export it again")
    with staged_folder(folder, overwrite=overwrite) as staging:
        for name in MODELS:
            graph = manifest.graphs[name]
            target = staging / name / "1"
            for path in (graph.file, *graph.extra_files):
                opened.copy(path, target / PurePosixPath(path).name)
        models = [
            {"config": {"name": name, "base_path": name, "plugin_config": PLUGIN_CONFIG}}
            for name in ("encode", "decode")
        ]
        (staging / "config.json").write_text(json.dumps({"model_config_list": models}, indent=2) + "\n")
        (staging / MANIFEST_FILE).write_bytes(opened.text)  # sizes, rule and codebook, for clients
    return Path(folder)
