"""The kinds of quantizers: one file each, and one row here. A configuration is read without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from vqrae.model.quantizers.config import QuantizerConfig
    from vqrae.model.quantizers.quantizer import Quantizer

FIRST_KIND: Final = "simvq"
"""The kind of a configuration that names none."""


class Kind(NamedTuple):
    """Where a kind is, each as `module:Class`."""

    config: str
    """A `QuantizerConfig`."""
    quantizer: str
    """A `Quantizer`, made of that configuration."""


KINDS: dict[str, Kind] = {
    FIRST_KIND: Kind("vqrae.model.quantizers.config:SimVQConfig", "vqrae.model.quantizers.simvq:SimVQ"),
}


def quantizer_config(kind: str) -> type[QuantizerConfig]:
    """The configuration of a row of `KINDS`."""
    return _imported(KINDS[kind].config)


def new_quantizer(config: QuantizerConfig) -> Quantizer:
    """A quantizer with random weights."""
    quantizer: type[Quantizer] = _imported(KINDS[config.kind].quantizer)
    return quantizer(config)


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
