"""The deployed graphs: the four parts of a tokenizer as they are traced, and the two wholes that they compose to.

    encode = encoder ∘ quantizer      images uint8 (B, H, W, 3) -> indices int32 (B, h, w), features float32 (B, h·w, C)
    decode = codebook ∘ decoder       indices int32 (B, h, w)   -> images uint8 (B, H, W, 3)

Scaling, layout and rounding are inside. Weights come from `folding`; there is no convolution, no distance matrix and no
code width left at run time.

One form serves every runtime. Bytes become numbers first and numbers become bytes last, because TensorRT takes uint8
only at the edge of a graph. Patches are cut and joined with four axes, because Core ML takes no more than five. The
precision of every value is in the graph (`GraphDtypes`), because TensorRT's networks are strongly typed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqrae.export import folding
from vqrae.export.blocks import ENCODER_PARTS, DeployedNorm, decoder_parts, deployed_blocks
from vqrae.export.dtypes import FP32, GraphDtypes
from vqrae.model import VQRAE
from vqrae.runtimes.manifest import TensorSpec

SLICE = 64
"""Most codes in a slice; see `argmax_by_slices`."""


class EncoderGraph(nn.Module):
    """Images uint8 (B, H, W, 3) -> features (B, h·w, C)."""

    byte_scale: Tensor
    prefix_1TC: Tensor
    positions_NC: Tensor

    def __init__(self, model: VQRAE, dtypes: GraphDtypes = FP32) -> None:
        super().__init__()
        encoder = model.encoder
        parts = ENCODER_PARTS[encoder.config.family](encoder.network, model.grid)
        self.grid = model.grid
        self.patch_size = model.config.decoder.patch_size
        self.prefix_tokens = encoder.prefix_tokens
        self.dtypes = dtypes
        embedding = folding.patch_embedding(encoder, parts.convolution, dtypes.byte_scale)
        self.patch_embedding = embedding.as_linear(dtypes.compute)
        # A tensor: beside a bare number, coremltools would compute in FP32 from here on.
        self.register_buffer("byte_scale", torch.tensor(dtypes.byte_scale, dtype=dtypes.compute))
        self.register_buffer("prefix_1TC", parts.prefix_1TC.to(dtypes.residual))
        self.register_buffer("positions_NC", parts.positions_NC.to(dtypes.residual))
        self.blocks = deployed_blocks(parts.blocks, dtypes)
        self.norm = DeployedNorm(parts.norm, dtypes.kept)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        numbers_BHW3 = images.to(self.dtypes.compute)
        if self.dtypes.byte_scale != 1:
            numbers_BHW3 = numbers_BHW3 * self.byte_scale
        patches_BNP = patches_from_images(numbers_BHW3, self.grid, self.patch_size)
        x_BNC = self.patch_embedding(patches_BNP).to(self.dtypes.residual) + self.positions_NC
        if self.prefix_tokens:
            x_BNC = torch.cat([self.prefix_1TC.expand(x_BNC.shape[0], -1, -1), x_BNC], dim=1)
        x_BNC = self.norm(self.blocks(x_BNC))
        return x_BNC[:, self.prefix_tokens :] if self.prefix_tokens else x_BNC


class QuantizerGraph(nn.Module):
    """Features (B, h·w, C) -> indices int32 (B, h, w): one GEMM and an argmax."""

    def __init__(self, model: VQRAE, dtypes: GraphDtypes = FP32) -> None:
        super().__init__()
        self.grid = model.grid
        self.scores = folding.search(model).as_linear(dtypes.kept)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return argmax_by_slices(self.scores(features)).to(torch.int32).reshape(-1, *self.grid)


class CodebookGraph(nn.Module):
    """Indices int32 (B, h, w) -> quantized features (B, h·w, C): one gather."""

    table_KC: Tensor

    def __init__(self, model: VQRAE, dtypes: GraphDtypes = FP32) -> None:
        super().__init__()
        self.tokens = model.grid[0] * model.grid[1]
        self.dtypes = dtypes
        self.register_buffer("table_KC", folding.lookup_table(model).to(dtypes.compute))

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.embedding(indices.reshape(-1, self.tokens), self.table_KC).to(self.dtypes.kept)


class DecoderGraph(nn.Module):
    """Quantized features (B, h·w, C) -> images uint8 (B, H, W, 3)."""

    positions_NC: Tensor

    def __init__(self, model: VQRAE, dtypes: GraphDtypes = FP32) -> None:
        super().__init__()
        decoder = model.decoder
        self.grid = decoder.grid
        self.patch_size = decoder.patch_size
        self.dtypes = dtypes
        self.image_dtype = torch.uint8  # float32 for a format that has no bytes at a graph's edge
        self.register_buffer("positions_NC", decoder.position_embedding.detach().to(dtypes.residual))
        self.blocks = deployed_blocks(decoder_parts(decoder), dtypes)
        self.norm = DeployedNorm(decoder.norm, dtypes.kept)
        self.head = folding.pixel_head(decoder.head).as_linear(dtypes.compute)

    def forward(self, quantized_features: Tensor) -> Tensor:
        """See the class."""
        x_BNC = self.norm(self.blocks(quantized_features.to(self.dtypes.residual) + self.positions_NC))
        pixels_BHW3 = images_from_patches(self.head(x_BNC.to(self.dtypes.compute)), self.grid, self.patch_size)
        return pixels_BHW3.round().clamp(0, 255).to(self.image_dtype)


class EncodeGraph(nn.Module):
    """Images uint8 (B, H, W, 3) -> indices int32 (B, h, w) and features (B, h·w, C)."""

    def __init__(self, model: VQRAE, dtypes: GraphDtypes = FP32) -> None:
        super().__init__()
        self.encoder = EncoderGraph(model, dtypes)
        self.quantizer = QuantizerGraph(model, dtypes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.encoder(images)
        return self.quantizer(features), features


class DecodeGraph(nn.Module):
    """Indices int32 (B, h, w) -> images uint8 (B, H, W, 3)."""

    def __init__(self, model: VQRAE, dtypes: GraphDtypes = FP32) -> None:
        super().__init__()
        self.codebook = CodebookGraph(model, dtypes)
        self.decoder = DecoderGraph(model, dtypes)

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        return self.decoder(self.codebook(indices))


def patches_from_images(images_BHW3: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Images (B, h·p, w·p, 3) -> (B, h·w, p·p·3), each patch row-major in (y, x, channel), in four axes."""
    (h, w), p = grid, patch_size
    rows = images_BHW3.reshape(-1, p, w, p * 3).transpose(1, 2)  # (B·h, w, p, p·3)
    return rows.reshape(-1, h * w, p * p * 3)


def images_from_patches(patches_BNP: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Inverse of `patches_from_images`."""
    (h, w), p = grid, patch_size
    rows = patches_BNP.reshape(-1, w, p, p * 3).transpose(1, 2)  # (B·h, p, w, p·3)
    return rows.reshape(-1, h * p, w * p, 3)


def argmax_by_slices(scores_BNK: Tensor) -> Tensor:
    """The index int64 (B, N) of each token's largest score, the lowest one where several are equal.

    First the slice of codes that holds it, by a maximum, then its place there. OpenVINO turns an argmax into a sort
    that takes longer than the product it follows; a maximum is a pass over memory, and what is left to sort is short.
    """
    width = math.gcd(scores_BNK.shape[-1], SLICE)
    first_BN = scores_BNK.unflatten(-1, (-1, width)).amax(-1).argmax(-1) * width
    codes_BNW = first_BN[..., None] + torch.arange(width, device=scores_BNK.device)
    return first_BN + scores_BNK.gather(-1, codes_BNW).argmax(-1)


TRACED_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """What a graph is called, how its module is made, and its signature."""

    name: str
    make: Callable[[VQRAE, GraphDtypes], nn.Module]
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]

    def example(self) -> Tensor:
        """An input to trace with. A dynamic batch is traced at 2, since 1 may be inferred to be a constant."""
        shape = [TRACED_BATCH if isinstance(side, str) else side for side in self.input.shape]
        return torch.zeros(shape, dtype=getattr(torch, self.input.dtype))

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim]] | None:
        """What `torch.export` is told of the input; None where the batch is fixed."""
        axis = self.input.shape[0]
        return ({0: torch.export.Dim(axis)},) if isinstance(axis, str) else None


def graph_plans(model: VQRAE, *, split: bool, batch: int | str = "batch") -> list[GraphPlan]:
    """The graphs of a bundle.

    Args:
        model: at the image size that they are for.
        split: beside `encode` and `decode` also the four parts.
        batch: a size, or the name of the dynamic axis.
    """
    (height, width), (h, w), c = model.size, model.grid, model.config.feature_width
    images = TensorSpec(name="images", dtype="uint8", shape=(batch, height, width, 3))
    indices = TensorSpec(name="indices", dtype="int32", shape=(batch, h, w))
    features = TensorSpec(name="features", dtype="float32", shape=(batch, h * w, c))
    quantized = TensorSpec(name="quantized_features", dtype="float32", shape=(batch, h * w, c))
    wholes = [
        GraphPlan(name="encode", make=EncodeGraph, input=images, outputs=(indices, features)),
        GraphPlan(name="decode", make=DecodeGraph, input=indices, outputs=(images,)),
    ]
    parts = [
        GraphPlan(name="encoder", make=EncoderGraph, input=images, outputs=(features,)),
        GraphPlan(name="quantizer", make=QuantizerGraph, input=features, outputs=(indices,)),
        GraphPlan(name="codebook", make=CodebookGraph, input=indices, outputs=(quantized,)),
        GraphPlan(name="decoder", make=DecoderGraph, input=quantized, outputs=(images,)),
    ]
    return wholes + parts if split else wholes
