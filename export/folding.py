"""Exact algebra: weights of the deployed form from weights of the trained one.

Deployment may change the form, never the function. Every folding here is an identity in exact arithmetic, computed in
float64, and has a test against the unfolded model in float64.

Shape suffixes: C feature width, P = p·p·3 values of a patch in (y, x, channel) order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqrae.model.parts import Affine, affine_from_linear, scaled


def joined(*affines: Affine) -> Affine:
    """Several maps of one input as one: query, key and value in a single GEMM."""
    return Affine(torch.cat([a.weight for a in affines]), torch.cat([a.bias for a in affines]))


def patch_embedding(convolution: nn.Conv2d, mean_3: Tensor, std_3: Tensor, byte_scale: float = 1.0) -> Affine:
    """The strided convolution, with the scaling from bytes and the normalization, as one map from P bytes to C.

    The network sees (u/255 − mean)/std for a byte u, so W·x + b = (W/(255·std))·u + (b − W·(mean/std)). Where the map
    is given bytes times `byte_scale`, its weights are divided by that.
    """
    weight = convolution.weight.detach().double()
    if convolution.bias is None:
        raise ValueError("a patch embedding without bias is of no encoder family that is supported")
    mean, std = (part.double().view(1, 3, 1, 1) for part in (mean_3, std_3))
    bias = convolution.bias.detach().double() - (weight * mean / std).sum((1, 2, 3))
    return Affine((weight / (255 * std * byte_scale)).permute(0, 2, 3, 1).flatten(1), bias)


def pixel_head(head: nn.Linear) -> Affine:
    """The decoder's head with the scaling from [-1, 1] to bytes."""
    affine = scaled(affine_from_linear(head), 127.5)
    return Affine(affine.weight, affine.bias + 127.5)
