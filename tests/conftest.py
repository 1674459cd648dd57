"""A small real checkpoint and its bundle, made once for the tests that need one.

What takes seconds to import is imported where it is used: most files do without, and often one file is run alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from not_run import (  # noqa: F401 - hooks
    pytest_deselected,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from vqrae.export.build import BundleBuilder

ENGINES = ["runtimes/test_engines_*.py", "runtimes/test_rebuild.py", "export/test_tensorrt_*.py"]
collect_ignore_glob = [] if find_spec("tensorrt_rtx") else ENGINES


def pytest_report_header() -> str | None:
    """What is left out must be seen."""
    return f"left out, because tensorrt-rtx is not installed: {', '.join(ENGINES)}" if collect_ignore_glob else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a run on several processes shall not end with one that waits for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _small_and_offline() -> Iterator[None]:
    """One thread, since waiting for another costs more than these models compute; and the hub is out of reach.

    NumPy's linear algebra takes ten times as long on two threads where the tests beside it keep both cores busy.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with threadpool_limits(1, "blas"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        if "huggingface_hub" in sys.modules:  # which has read it
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_was_imported_is_no_garbage() -> None:
    """Much of what is tested collects garbage, which takes longer the more modules there are to look through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint on disk."""
    import torch
    from tiny_models import tiny_model

    from vqrae.checkpoint import save_pretrained

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_pretrained(tiny_model(), folder)
    return folder


@pytest.fixture(scope="session")
def builder(checkpoint_folder: Path) -> Iterator[BundleBuilder]:
    """Builds its bundles, with the reference run on eight photographs."""
    from vqrae.checkpoint import open_checkpoint
    from vqrae.export.build import BundleBuilder
    from vqrae.export.parity_images import parity_images
    from vqrae.export.tokenizers.vqrae import VqraeTokenizer

    opened = VqraeTokenizer(open_checkpoint(str(checkpoint_folder)))
    with BundleBuilder(opened, parity_images(None, (32, 32), 8), lambda _: None) as builder:
        yield builder


@pytest.fixture(scope="session")
def exported(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX FP32 bundle; not to be changed."""
    from vqrae.export.formats import target

    folder = tmp_path_factory.mktemp("bundles")
    return Path(builder.build(target("onnx"), folder).bundle)


@pytest.fixture(scope="module")
def larger(checkpoint_folder: Path) -> Iterator[BundleBuilder]:
    """Builds bundles of the same checkpoint for images of twice the height and one and a half times the width."""
    from vqrae.checkpoint import open_checkpoint
    from vqrae.export.build import BundleBuilder
    from vqrae.export.parity_images import parity_images
    from vqrae.export.tokenizers.vqrae import VqraeTokenizer
    from vqrae.model.vqrae import resized

    opened = open_checkpoint(str(checkpoint_folder))
    larger = replace(opened, model=resized(opened.model, (64, 48)))
    with BundleBuilder(VqraeTokenizer(larger), parity_images(None, (64, 48), 4), lambda _: None) as builder:
        yield builder


@pytest.fixture(scope="module")
def bundle_of(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a bundle when it is first asked for."""
    from vqrae.export.formats import target

    folder = tmp_path_factory.mktemp("bundles")

    def built(format_name: str, precision: str, chosen: BundleBuilder = builder) -> Path:
        wanted = target(format_name, precision)
        path = folder / chosen.name(wanted)
        return path if path.exists() else Path(chosen.build(wanted, folder).bundle)

    return built


@pytest.fixture
def rewrite() -> Callable[[Path], None]:
    """Lets a bundle's manifest list its files as they are."""
    from vqrae.runtimes.bundle import listed_files, write_manifest
    from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest

    def write(folder: Path) -> None:
        manifest = read_manifest(folder / MANIFEST_FILE)
        write_manifest(folder, manifest.model_copy(update={"files": listed_files(folder)}))

    return write
