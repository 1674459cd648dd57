from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vqrae.runtimes

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(vqrae.runtimes.__path__, "vqrae.runtimes.")
    if ".backends." not in module.name
)


def python(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_every_module_is_looked_at() -> None:
    assert {"vqrae.runtimes.tokenizer", "vqrae.runtimes.selftest", "vqrae.runtimes.parity"} <= set(MODULES)


def test_every_module_imports_without_torch_or_any_runtime() -> None:
    python(
        "import importlib, sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)",
        *MODULES,
    )


def test_a_bundle_encodes_and_passes_its_selftest_without_torch(pristine_bundle: Path) -> None:
    printed = python(
        "import sys; sys.modules['torch'] = None\n"
        "import vqrae\n"
        "from vqrae.runtimes.selftest import selftest\n"
        "with vqrae.load(sys.argv[1]) as tokenizer: report = selftest(tokenizer)\n"
        "print(report.gate)",
        str(pristine_bundle),
    )
    assert printed == "pass\n"


def test_importing_the_package_brings_nothing_heavy() -> None:
    printed = python("import sys, vqrae.runtimes.errors; print({'numpy', 'PIL', 'pydantic'} & set(sys.modules))")
    assert printed == "set()\n"


def test_the_public_names_are_sorted_and_there() -> None:
    assert vqrae.runtimes.__all__ == sorted(vqrae.runtimes.__all__)
    assert {name for name in vqrae.runtimes.__all__ if not hasattr(vqrae.runtimes, name)} == set()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = vqrae.runtimes.nothing
