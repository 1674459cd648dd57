from __future__ import annotations

import pkgutil
import subprocess
import sys

import vqrae.serving

MODULES = sorted(module.name for module in pkgutil.walk_packages(vqrae.serving.__path__, "vqrae.serving."))


def test_a_server_needs_neither_torch_nor_the_rest_of_the_house() -> None:
    code = (
        "import importlib, sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'vqrae.export', 'vqrae.training', 'vqrae.model'):\n"
        "    sys.modules[name] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    assert "vqrae.serving.app" in MODULES
    subprocess.run([sys.executable, "-c", code, *MODULES], check=True, timeout=60)
