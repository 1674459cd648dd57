"""The contract of a bundle, and torch-free inference from it.

Light to import: a name brings its module, and what that needs, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqrae.runtimes.archive import pack, unpack
    from vqrae.runtimes.bundle import Bundle
    from vqrae.runtimes.errors import (
        BundleError,
        CheckpointError,
        DataError,
        DeviceMissing,
        EngineMismatch,
        GateFailure,
        ImageError,
        IndicesError,
        InvalidInput,
        RuntimeUnavailable,
        SignatureError,
        StorageError,
        UsageError,
        VqraeError,
    )
    from vqrae.runtimes.golden import GoldenSamples
    from vqrae.runtimes.load_options import LoadOptions
    from vqrae.runtimes.manifest import Manifest, manifest_schema, read_manifest
    from vqrae.runtimes.preprocess import ImageLike, prepare
    from vqrae.runtimes.selftest import SelftestReport
    from vqrae.runtimes.session import Execution, Session
    from vqrae.runtimes.tokenizer import Encoding, Tokenizer, load

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "DataError",
    "DeviceMissing",
    "Encoding",
    "EngineMismatch",
    "Execution",
    "GateFailure",
    "GoldenSamples",
    "ImageError",
    "ImageLike",
    "IndicesError",
    "InvalidInput",
    "LoadOptions",
    "Manifest",
    "RuntimeUnavailable",
    "SelftestReport",
    "Session",
    "SignatureError",
    "StorageError",
    "Tokenizer",
    "UsageError",
    "VqraeError",
    "load",
    "manifest_schema",
    "pack",
    "prepare",
    "read_manifest",
    "unpack",
]

_HOMES = {
    "Bundle": "bundle",
    "Encoding": "tokenizer",
    "Execution": "session",
    "GoldenSamples": "golden",
    "ImageLike": "preprocess",
    "LoadOptions": "load_options",
    "Manifest": "manifest",
    "SelftestReport": "selftest",
    "Session": "session",
    "Tokenizer": "tokenizer",
    "load": "tokenizer",
    "manifest_schema": "manifest",
    "pack": "archive",
    "prepare": "preprocess",
    "read_manifest": "manifest",
    "unpack": "archive",
}
"""Name -> its module; the rest are errors."""


def __getattr__(name: str) -> Any:
    if name == "SessionOptions":
        raise AttributeError(f"{__name__}.SessionOptions is {__name__}.LoadOptions now, the same with a public key")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
