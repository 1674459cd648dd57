"""Exact algebra: weights of the deployed form from weights of the trained one.

Deployment may change the form, never the function. Every folding here is an identity in exact arithmetic, computed in
float64, and has a test against the unfolded model in float64.

Shape suffixes: C feature width, E code width, K codes, P = p·p·3 values of a patch in (y, x, channel) order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.model.parts import Affine, affine_from_linear, scaled


def joined(*affines: Affine) -> Affine:
    """Several maps of one input as one: query, key and value in a single GEMM."""
    return Affine(torch.cat([a.weight for a in affines]), torch.cat([a.bias for a in affines]))


def patch_embedding(encoder: Encoder, convolution: nn.Conv2d, byte_scale: float = 1.0) -> Affine:
    """The strided convolution, with the scaling from bytes and the normalization, as one map from P bytes to C.

    The network sees (u/255 − mean)/std for a byte u, so W·x + b = (W/(255·std))·u + (b − W·(mean/std)). Where the map
    is given bytes times `byte_scale`, its weights are divided by that.
    """
    weight = convolution.weight.detach().double()
    if convolution.bias is None:
        raise ValueError("a patch embedding without bias is of no encoder family that is supported")
    mean, std = (part.double().view(1, 3, 1, 1) for part in (encoder.image_mean, encoder.image_std))
    bias = convolution.bias.detach().double() - (weight * mean / std).sum((1, 2, 3))
    return Affine((weight / (255 * std * byte_scale)).permute(0, 2, 3, 1).flatten(1), bias)


def search(model: VQRAE) -> Affine:
    """Scores of all codes as one map from the features: argmin‖Pz + p − c_i‖² = argmax(S_i·z + b_i).

    S = C_eff·P and b = C_eff·p − ½‖C_eff‖². Subtracting their means over the codes moves every score of a token by the
    same amount, which the argmax does not see, and shrinks their range.
    """
    projection, codes_KE = affine_from_linear(model.in_projection), effective_codes(model)
    scores = Affine(codes_KE @ projection.weight, codes_KE @ projection.bias - codes_KE.square().sum(1) / 2)
    return Affine(scores.weight - scores.weight.mean(0), scores.bias - scores.bias.mean())


def lookup_table(model: VQRAE) -> Tensor:
    """Every code after the projection out, float64 (K, C), so that decoding starts with a gather of ready features."""
    projection = affine_from_linear(model.out_projection)
    return effective_codes(model) @ projection.weight.T + projection.bias


def pixel_head(head: nn.Linear) -> Affine:
    """The decoder's head with the scaling from [-1, 1] to bytes."""
    affine = scaled(affine_from_linear(head), 127.5)
    return Affine(affine.weight, affine.bias + 127.5)


def effective_codes(model: VQRAE) -> Tensor:
    """C·W + w in float64, (K, E)."""
    transform = affine_from_linear(model.quantizer.transform)
    return model.quantizer.codebook.double() @ transform.weight.T + transform.bias
