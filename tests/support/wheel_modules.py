"""A program for an environment in which the wheel is installed: it imports every module, and prints what came of it."""

from __future__ import annotations

IMPORTS = """
import importlib, importlib.util, json, pkgutil
import vqrae
from vqrae.runtimes.errors import RuntimeUnavailable

imported, absent = [], {}


def tried(name):
    try:
        importlib.import_module(name)
        imported.append(name)
    except ModuleNotFoundError as error:
        absent[name] = str(error.name).partition(".")[0]
        assert absent[name] != "vqrae" and importlib.util.find_spec(absent[name]) is None, f"{name}: {error}"
    except RuntimeUnavailable as error:
        absent[name] = str(error)


for module in pkgutil.walk_packages(vqrae.__path__, "vqrae.", onerror=lambda name: None):
    tried(module.name)
print(json.dumps([imported, absent]))
"""
"""Prints two JSON values: the modules that were imported, and module -> the dependency that is absent; a module that
misses anything else is an error."""
