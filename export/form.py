"""How a graph is spelled for one runtime at one precision, decided before it is traced."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vqrae.runtimes.precision import KeptFloat, PrecisionName


@dataclass(frozen=True, kw_only=True)
class Form:
    """The dtypes of a graph: its precision is in it, and no converter decides any."""

    compute: torch.dtype
    """GEMMs, their weights, and what lies between them."""
    residual: torch.dtype
    """The stream that every block adds to."""
    kept: torch.dtype
    """LayerNorm, softmax, the scores of the codes, and what leaves the graph but for images and indices."""
    images: torch.dtype = torch.uint8
    """What leaves as images: float32, whole numbers, for a format that has no bytes at a graph's edge. As an input,
    images may be of either."""
    byte_scale: float = 1.0
    """Bytes are multiplied with it, and the weights that they meet divided by it; a power of two, so that nothing is
    rounded. With 1 the patch embedding's folded weights are so small that in FP16 a third of them can be subnormal
    numbers, which some devices take for zero."""
    kept_float: tuple[KeptFloat, ...] = ()
    """What is kept in FP32, for the manifest."""


KEPT_IN_FP16 = (
    KeptFloat(layer="scores", reason="neighboring codes differ by less than FP16 resolves"),
    KeptFloat(layer="LayerNorm", reason="sums of squares overflow FP16 in large networks"),
    KeptFloat(layer="softmax", reason="sums of exponentials lose their small terms in FP16"),
    KeptFloat(layer="residual stream", reason="every block's rounding would add up in it"),
)
FP32 = Form(compute=torch.float32, residual=torch.float32, kept=torch.float32)
FP64 = Form(compute=torch.float64, residual=torch.float64, kept=torch.float64)
"""Not deployed: the foldings are proven in it."""
FP16 = Form(
    compute=torch.float16, residual=torch.float32, kept=torch.float32, byte_scale=2.0**-8, kept_float=KEPT_IN_FP16
)

FORMS: dict[PrecisionName, Form] = {"fp32": FP32, "fp16": FP16}
"""Precision of a bundle -> the form that its graphs are traced in."""
