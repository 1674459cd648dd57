"""From a trained checkpoint to bundles: fold, trace, build, check, write. Called, the package does all of it."""

from __future__ import annotations

import sys
from types import ModuleType

from vqrae.export.calls import Exported, export

__all__ = ["Exported", "export"]


class _Package(ModuleType):
    """`vqrae.export` is a package, and Python binds the name to it as soon as a module of it is imported.

    So that `vqrae.export(...)` means the same before and after, the package itself is called.
    """

    __call__ = staticmethod(export)
    __wrapped__ = staticmethod(export)  # whose signature is shown


sys.modules[__name__].__class__ = _Package
