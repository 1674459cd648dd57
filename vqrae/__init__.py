"""VQRAE: an image tokenizer in PyTorch, and the toolkit that takes it to production runtimes and proves it arrived.

    load        a bundle's tokenizer: images to tokens and features, and back; never needs torch
    selftest    does a bundle do on this machine what the model did at export; never needs torch
    export      a checkpoint to bundles, each verified
    verify      bundles against the PyTorch model, here and now
    bench       latency, start-up, memory and size of bundles and the model, in one interleaved run

`import vqrae` is light: nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqrae.benchmarks.bench import bench
    from vqrae.benchmarks.options import BenchOptions
    from vqrae.checkpoint import from_pretrained, save_pretrained
    from vqrae.config import VQRAEConfig, preset
    from vqrae.export import export
    from vqrae.export.calls import verify
    from vqrae.model import VQRAE
    from vqrae.runtimes.load_options import LoadOptions
    from vqrae.runtimes.selftest import selftest
    from vqrae.runtimes.tokenizer import Encoding, Tokenizer, load

# In a checkout the other packages of the namespace lie beside this folder (pyproject.toml, package-dir): with it, they
# are found from the repository's root whether or not anything is installed, and an installed copy never mixes in.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "runtimes" / "manifest.py").is_file():
    __path__.append(str(_checkout))

try:
    __version__ = version("vqrae")
except PackageNotFoundError:  # a checkout, run as it is
    __version__ = "0+checkout"

# ONNX Runtime's wheels report to their maker, and write a device's id below the user's home while they are imported.
# Only this, set before, keeps all of it from happening; a value that the user has set is theirs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "BenchOptions": "vqrae.benchmarks.options",
    "Encoding": "vqrae.runtimes.tokenizer",
    "LoadOptions": "vqrae.runtimes.load_options",
    "Tokenizer": "vqrae.runtimes.tokenizer",
    "VQRAE": "vqrae.model",
    "VQRAEConfig": "vqrae.config",
    "bench": "vqrae.benchmarks.bench",
    "load": "vqrae.runtimes.tokenizer",
    "from_pretrained": "vqrae.checkpoint",
    "preset": "vqrae.config",
    "save_pretrained": "vqrae.checkpoint",
    "selftest": "vqrae.runtimes.selftest",
    "verify": "vqrae.export.calls",
}

__all__ = [
    "VQRAE",
    "BenchOptions",
    "Encoding",
    "LoadOptions",
    "Tokenizer",
    "VQRAEConfig",
    "bench",
    "export",
    "from_pretrained",
    "load",
    "preset",
    "save_pretrained",
    "selftest",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module("vqrae.export")  # a package that can be called: see there
    if name not in _HOMES:
        raise AttributeError(f"module 'vqrae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
