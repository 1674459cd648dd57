"""Build a bundle's engines again, for this machine, from the ONNX graphs that the bundle holds. Torch-free."""

from __future__ import annotations

from pathlib import Path

from vqrae.runtimes.bundle import Bundle, listed_files, write_manifest
from vqrae.runtimes.errors import BundleError, UsageError
from vqrae.runtimes.evidence import Evidence
from vqrae.runtimes.manifest import GraphSpec, Manifest
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.staging import staged_folder

REASON = "rebuilt on this machine; run `vqrae selftest` or `vqrae verify`"
"""Why a rebuilt bundle's evidence says that it was not executed."""


def rebuild(path: Path | str, device: str | None = None) -> Bundle:
    """Replace a bundle by one with the same graphs, whose engines are built here with the options that it records.

    The old bundle stays until the new one is whole, and for good if anything fails.

    Args:
        path: the bundle's folder.
        device: the GPU to build for, `cuda` or `cuda:1`; None is the first one. A portable engine stays for all those
            that it is for already, and where there is no GPU, it is for them alone.

    Returns:
        The new bundle. It was not executed: what the old one's evidence says of its engines is gone.

    Raises:
        UsageError: the bundle holds no engines, or there are no such devices.
        BundleError: it is incomplete or changed, or holds no ONNX graphs.
        RuntimeUnavailable: the framework is not installed, or fails to build; or the device is not there.
        StorageError: the operating system refused to write.
    """
    bundle = Bundle.open(path)
    _check_sources(bundle)
    sources = [file for graph in bundle.manifest.graphs.values() for file in _sources(graph)]
    with staged_folder(path, overwrite=True) as staging, Sealed.of(bundle, sources, "disk") as sealed:
        sealed.check(sources)
        _copy_the_rest(bundle, staging)
        write_manifest(staging, _rebuilt(bundle, sealed, staging, device))
        Bundle.open(staging)
    return Bundle.open(path)


def _check_sources(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if manifest.runtime.engine is None:
        got, expected = f"a bundle for {manifest.runtime.name}", "one that holds engines"
        raise UsageError(f"{bundle.path} rebuild", got=got, expected=expected, remedy="it runs as it is")
    absent = [name for name, graph in manifest.graphs.items() if graph.source is None]
    if absent:
        got, remedy = f"no ONNX graph for {', '.join(absent)}", "export it again, with the ONNX graphs"
        raise BundleError(f"{bundle.path} rebuild", got=got, expected="one for each engine", remedy=remedy)


def _copy_the_rest(bundle: Bundle, staging: Path) -> None:
    """All but the engines and what was said of their layers."""
    graphs = bundle.manifest.graphs.values()
    replaced = {graph.file for graph in graphs} | {graph.layers for graph in graphs}
    for entry in bundle.manifest.files:
        if entry.path not in replaced:
            bundle.copy(entry.path, staging / entry.path)


def _sources(graph: GraphSpec) -> tuple[str, ...]:
    """What an engine is built from."""
    return (*([] if graph.source is None else [graph.source]), *graph.source_extra_files)


def _rebuilt(bundle: Bundle, sealed: Sealed, staging: Path, device: str | None) -> Manifest:
    """Write the engines, and say what the bundle is now."""
    manifest = bundle.manifest
    session = session_class(manifest.runtime.name)
    # Not at the top: these need the CUDA bindings, which are there where the session's framework is.
    from vqrae.runtimes.backends.tensorrt.builder import EngineBuilder, building_gpu
    from vqrae.runtimes.backends.tensorrt.layers import read_origins
    from vqrae.runtimes.backends.tensorrt.recipe import EngineRecipe
    from vqrae.runtimes.backends.tensorrt.session import EngineSession

    if not issubclass(session, EngineSession):
        raise BundleError(f"{bundle.path} rebuild", got=f"engines of {manifest.runtime.name}", expected="none of it")
    api = session.api()
    gpu = building_gpu(api, device)
    recipe = EngineRecipe.from_manifest(str(bundle.path), manifest.runtime).also_for(api, gpu)
    builder = EngineBuilder(api, recipe, manifest.precision, gpu=gpu)
    for graph in manifest.graphs.values():
        layers = graph.layers
        origins = {} if layers is None else read_origins(bundle.path / layers, bundle.read(layers))
        builder.build(sealed.path(str(graph.source)), staging, graph, origins)
    runtime = builder.runtime(manifest.runtime.built_with)
    evidence = Evidence(executed=False, reason=REASON, gate="not-executed", source=manifest.evidence.source)
    versions = {**manifest.created_with, **runtime.built_with}
    changes = {"created_with": versions, "runtime": runtime, "evidence": evidence, "files": listed_files(staging)}
    return manifest.model_copy(update=changes)
