"""The deployed graphs: the four parts of a tokenizer as they are traced, and the two wholes that they compose to.

    encode = encoder ∘ quantizer      images uint8 (B, H, W, 3) -> indices int32 (B, h, w), features float32 (B, h·w, C)
    decode = codebook ∘ decoder       indices int32 (B, h, w)   -> images uint8 (B, H, W, 3)

Scaling, layout and rounding are inside. Weights come from `folding`; there is no convolution, no distance matrix and no
code width left at run time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqrae.config import VQRAEConfig
from vqrae.export import folding
from vqrae.export.blocks import ENCODER_PARTS, decoder_parts, deployed_blocks
from vqrae.model import VQRAE
from vqrae.runtimes.manifest import TensorSpec


class EncoderGraph(nn.Module):
    """Images uint8 (B, H, W, 3) -> features (B, h·w, C)."""

    prefix_1TC: Tensor
    positions_NC: Tensor

    def __init__(self, model: VQRAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        encoder = model.encoder
        parts = ENCODER_PARTS[encoder.config.family](encoder.network)
        self.grid = model.config.grid
        self.patch_size = model.config.decoder.patch_size
        self.prefix_tokens = encoder.prefix_tokens
        self.patch_embedding = folding.patch_embedding(encoder, parts.convolution).as_linear(dtype)
        self.register_buffer("prefix_1TC", parts.prefix_1TC.to(dtype))
        self.register_buffer("positions_NC", parts.positions_NC.to(dtype))
        self.blocks = deployed_blocks(parts.blocks, dtype)
        self.norm = copy.deepcopy(parts.norm).to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        (h, w), p = self.grid, self.patch_size
        # Bytes are rearranged before they become four times as large.
        bytes_BNP = images.reshape(-1, h, p, w, p, 3).transpose(2, 3).reshape(-1, h * w, 3 * p * p)
        x_BNC = self.patch_embedding(bytes_BNP.to(self.positions_NC.dtype)) + self.positions_NC
        if self.prefix_tokens:
            x_BNC = torch.cat([self.prefix_1TC.expand(x_BNC.shape[0], -1, -1), x_BNC], dim=1)
        x_BNC = self.norm(self.blocks(x_BNC))
        return x_BNC[:, self.prefix_tokens :] if self.prefix_tokens else x_BNC


class QuantizerGraph(nn.Module):
    """Features (B, h·w, C) -> indices int32 (B, h, w): one GEMM and an argmax."""

    def __init__(self, model: VQRAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.grid = model.config.grid
        self.scores = folding.search(model).as_linear(dtype)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return self.scores(features).argmax(-1).to(torch.int32).reshape(-1, *self.grid)


class CodebookGraph(nn.Module):
    """Indices int32 (B, h, w) -> quantized features (B, h·w, C): one gather."""

    table_KC: Tensor

    def __init__(self, model: VQRAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.tokens = model.config.grid[0] * model.config.grid[1]
        self.register_buffer("table_KC", folding.lookup_table(model).to(dtype))

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.embedding(indices.reshape(-1, self.tokens), self.table_KC)


class DecoderGraph(nn.Module):
    """Quantized features (B, h·w, C) -> images uint8 (B, H, W, 3)."""

    positions_NC: Tensor

    def __init__(self, model: VQRAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        decoder = model.decoder
        self.grid = decoder.grid
        self.patch_size = decoder.patch_size
        self.register_buffer("positions_NC", decoder.position_embedding.detach().to(dtype))
        self.blocks = deployed_blocks(decoder_parts(decoder), dtype)
        self.norm = copy.deepcopy(decoder.norm).to(dtype)
        self.head = folding.pixel_head(decoder.head).as_linear(dtype)

    def forward(self, quantized_features: Tensor) -> Tensor:
        """See the class."""
        (h, w), p = self.grid, self.patch_size
        patches_BNP = self.head(self.norm(self.blocks(quantized_features + self.positions_NC)))
        bytes_BNP = patches_BNP.round().clamp(0, 255).to(torch.uint8)
        return bytes_BNP.reshape(-1, h, w, p, p, 3).transpose(2, 3).reshape(-1, h * p, w * p, 3)


class EncodeGraph(nn.Module):
    """Images uint8 (B, H, W, 3) -> indices int32 (B, h, w) and features (B, h·w, C)."""

    def __init__(self, model: VQRAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.encoder = EncoderGraph(model, dtype)
        self.quantizer = QuantizerGraph(model, dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.encoder(images)
        return self.quantizer(features), features


class DecodeGraph(nn.Module):
    """Indices int32 (B, h, w) -> images uint8 (B, H, W, 3)."""

    def __init__(self, model: VQRAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.codebook = CodebookGraph(model, dtype)
        self.decoder = DecoderGraph(model, dtype)

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        return self.decoder(self.codebook(indices))


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """What a graph is called, how its module is made, and its signature."""

    name: str
    make: Callable[[VQRAE], nn.Module]
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]


def graph_plans(config: VQRAEConfig, *, split: bool) -> list[GraphPlan]:
    """The graphs of a bundle: `encode` and `decode`, and with `split` also the four parts."""
    (h, w), c, side = config.grid, config.feature_width, config.image_size
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", side, side, 3))
    indices = TensorSpec(name="indices", dtype="int32", shape=("batch", h, w))
    features = TensorSpec(name="features", dtype="float32", shape=("batch", h * w, c))
    quantized = TensorSpec(name="quantized_features", dtype="float32", shape=("batch", h * w, c))
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
