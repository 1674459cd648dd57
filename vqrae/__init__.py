"""VQRAE: an image tokenizer in PyTorch, and the toolkit that takes it to production runtimes and proves it arrived.

`import vqrae` is light: nothing heavy is imported until a name is used, and `vqrae.load` never needs torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqrae.checkpoint import from_pretrained, save_pretrained
    from vqrae.config import VQRAEConfig, preset
    from vqrae.model import VQRAE
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
    "Encoding": "vqrae.runtimes.tokenizer",
    "Tokenizer": "vqrae.runtimes.tokenizer",
    "VQRAE": "vqrae.model",
    "VQRAEConfig": "vqrae.config",
    "load": "vqrae.runtimes.tokenizer",
    "from_pretrained": "vqrae.checkpoint",
    "preset": "vqrae.config",
    "save_pretrained": "vqrae.checkpoint",
}

__all__ = [
    "VQRAE",
    "Encoding",
    "Tokenizer",
    "VQRAEConfig",
    "from_pretrained",
    "load",
    "preset",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vqrae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
