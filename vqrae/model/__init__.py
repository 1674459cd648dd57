"""The reference model in PyTorch: encoder, quantizer, decoder, and the tokenizer that they make.

Configurations are read without torch, so that the tokenizer is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqrae.model.vqrae import VQRAE

__all__ = ["VQRAE"]


def __getattr__(name: str) -> type[VQRAE]:
    if name != "VQRAE":
        raise AttributeError(f"module 'vqrae.model' has no attribute {name!r}")
    from vqrae.model.vqrae import VQRAE

    return VQRAE
