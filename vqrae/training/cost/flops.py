"""The floating-point operations of what runs under a counter: a multiplication and an addition are two."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

Shape = tuple[int, ...]


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop(query, key, value)


def _attention_backward_flops(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop(gradient, query, key, value)


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter of matrix products, convolutions and attention, taught the CPU's attention.

    The CPU's fused attention is the same algorithm as the GPU's, whose formulas are applied to it: five products in the
    backward pass for two in the forward one, since the scores are made anew. Elementwise operations are not counted.
    """
    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)
