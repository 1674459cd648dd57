"""VQRAE: its deployed graphs, the four parts as they are traced and the two wholes that they compose to.

    encode = encoder ∘ quantizer      images uint8 (B, H, W, 3) -> indices int32 (B, h, w), features float32 (B, h·w, C)
    decode = codebook ∘ decoder       indices int32 (B, h, w)   -> images uint8 (B, H, W, 3)

Scaling, layout and rounding are inside. Weights come from `folding`; there is no convolution, no distance matrix and no
code width left at run time.

Bytes become numbers first and numbers become bytes last, because TensorRT takes uint8 only at the edge of a graph. The
precision of every value is in the graph (`Form`), because TensorRT's networks are strongly typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqrae.calibration.layers import Role
from vqrae.checkpoint import Checkpoint
from vqrae.config import VQRAEConfig
from vqrae.export import folding
from vqrae.export.blocks import DeployedNorm, block_roles, deployed_blocks
from vqrae.export.deployable import GraphPlan, inside
from vqrae.export.form import FP32, Form
from vqrae.export.graphs.operators import images_from_patches, patches_from_images
from vqrae.model import VQRAE
from vqrae.model.parts import affine_from_linear
from vqrae.model.reference import ReferenceTokenizer
from vqrae.model.search import top2
from vqrae.runtimes.code_space import TableSpace
from vqrae.runtimes.manifest import Preprocessing, TensorSpec, Tokens


class EncoderGraph(nn.Module):
    """Images uint8 (B, H, W, 3) -> features (B, h·w, C)."""

    byte_scale: Tensor
    prefix_1TC: Tensor
    positions_NC: Tensor

    def __init__(self, model: VQRAE, form: Form = FP32) -> None:
        super().__init__()
        encoder = model.encoder
        parts = encoder.parts(model.grid)
        self.grid = model.grid
        self.patch_size = model.config.decoder.patch_size
        self.prefix_tokens = encoder.prefix_tokens
        self.form = form
        embedding = folding.patch_embedding(parts.convolution, encoder.image_mean, encoder.image_std, form.byte_scale)
        self.patch_embedding = embedding.as_linear(form.compute)
        # A tensor: beside a bare number, coremltools would compute in FP32 from here on.
        self.register_buffer("byte_scale", torch.tensor(form.byte_scale, dtype=form.compute))
        self.register_buffer("prefix_1TC", parts.prefix_1TC.to(form.residual))
        self.register_buffer("positions_NC", parts.positions_NC.to(form.residual))
        self.blocks = deployed_blocks(parts.blocks, form)
        self.norm = DeployedNorm(parts.norm, form.kept)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        numbers_BHW3 = images.to(self.form.compute)
        if self.form.byte_scale != 1:
            numbers_BHW3 = numbers_BHW3 * self.byte_scale
        patches_BNP = patches_from_images(numbers_BHW3, self.grid, self.patch_size)
        x_BNC = self.patch_embedding(patches_BNP).to(self.form.residual) + self.positions_NC
        if self.prefix_tokens:
            x_BNC = torch.cat([self.prefix_1TC.expand(x_BNC.shape[0], -1, -1), x_BNC], dim=1)
        x_BNC = self.norm(self.blocks(x_BNC))
        return x_BNC[:, self.prefix_tokens :] if self.prefix_tokens else x_BNC


def quantizer_graph(model: VQRAE, form: Form = FP32) -> nn.Module:
    """Features (B, h·w, C) -> indices int32 (B, h, w)."""
    return model.quantizer.search_graph(affine_from_linear(model.in_projection), model.grid, form.kept)


def codebook_graph(model: VQRAE, form: Form = FP32) -> nn.Module:
    """Indices int32 (B, h, w) -> quantized features (B, h·w, C)."""
    after, (h, w) = affine_from_linear(model.out_projection), model.grid
    return model.quantizer.lookup_graph(after, h * w, form.compute, form.kept)


class DecoderGraph(nn.Module):
    """Quantized features (B, h·w, C) -> images uint8 (B, H, W, 3)."""

    positions_NC: Tensor

    def __init__(self, model: VQRAE, form: Form = FP32) -> None:
        super().__init__()
        decoder = model.decoder
        self.grid = decoder.grid
        self.patch_size = decoder.patch_size
        self.form = form
        self.register_buffer("positions_NC", decoder.position_embedding.detach().to(form.residual))
        self.blocks = deployed_blocks(decoder.parts(), form)
        self.norm = DeployedNorm(decoder.norm, form.kept)
        self.head = folding.pixel_head(decoder.head).as_linear(form.compute)

    def forward(self, quantized_features: Tensor) -> Tensor:
        """See the class."""
        x_BNC = self.norm(self.blocks(quantized_features.to(self.form.residual) + self.positions_NC))
        pixels_BHW3 = images_from_patches(self.head(x_BNC.to(self.form.compute)), self.grid, self.patch_size)
        return pixels_BHW3.round().clamp(0, 255).to(self.form.images)


class EncodeGraph(nn.Module):
    """Images uint8 (B, H, W, 3) -> indices int32 (B, h, w) and features (B, h·w, C)."""

    def __init__(self, model: VQRAE, form: Form = FP32) -> None:
        super().__init__()
        self.encoder = EncoderGraph(model, form)
        self.quantizer = quantizer_graph(model, form)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.encoder(images)
        return self.quantizer(features), features


class DecodeGraph(nn.Module):
    """Indices int32 (B, h, w) -> images uint8 (B, H, W, 3)."""

    def __init__(self, model: VQRAE, form: Form = FP32) -> None:
        super().__init__()
        self.codebook = codebook_graph(model, form)
        self.decoder = DecoderGraph(model, form)

    def forward(self, indices: Tensor) -> Tensor:
        """See the class."""
        return self.decoder(self.codebook(indices))


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
    blocks, coded = block_roles(len(model.encoder.parts(model.grid).blocks)), block_roles(model.config.decoder.depth)
    encoder: dict[str, Role] = {"patch_embedding": "patch", **blocks}
    quantizer: dict[str, Role] = {"scores": "scores"}
    decoder: dict[str, Role] = {**coded, "head": "head"}
    encode = inside("encoder", encoder) | inside("quantizer", quantizer)
    decode = inside("decoder", decoder)

    def plan(
        name: str,
        make: Callable[[VQRAE, Form], nn.Module],
        given: TensorSpec,
        outputs: tuple[TensorSpec, ...],
        roles: Mapping[str, Role],
    ) -> GraphPlan:
        return GraphPlan(name=name, module=partial(make, model), input=given, outputs=outputs, roles=roles)

    wholes = [
        plan("encode", EncodeGraph, images, (indices, features), encode),
        plan("decode", DecodeGraph, indices, (images,), decode),
    ]
    parts = [
        plan("encoder", EncoderGraph, images, (features,), encoder),
        plan("quantizer", quantizer_graph, features, (indices,), quantizer),
        plan("codebook", codebook_graph, indices, (quantized,), {}),
        plan("decoder", DecoderGraph, quantized, (images,), decoder),
    ]
    return wholes + parts if split else wholes


class VqraeReference(ReferenceTokenizer):
    """A model as a `ReferenceModel`."""

    @cached_property
    def space(self) -> TableSpace:
        """The projection into the quantizer, and the effective codes."""
        projection = self.model.in_projection
        return TableSpace(
            weight_EC=projection.weight.detach().numpy(),
            bias_E=projection.bias.detach().numpy(),
            codes_KE=self.codes_KE.numpy(),
            nearest_two=self._nearest_two,
        )

    @property
    def tokens(self) -> Tokens:
        """See `ReferenceModel`."""
        config = self.model.config
        codes, width = config.quantizer.codebook_size, config.feature_width
        return Tokens(grid=self.model.grid, codebook_size=codes, feature_width=width)

    @torch.inference_mode()
    def _nearest_two(self, features_MC: NDArray[np.float32]) -> NDArray[np.int32]:
        projected_ME = self.model.in_projection(torch.from_numpy(features_MC))
        return top2(projected_ME, self.codes_KE).numpy().astype(np.int32)


class VqraeTokenizer(VqraeReference):
    """A checkpoint as a `Deployable`, its model at the size that it has (`vqrae.checkpoint`)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.model)
        self.identity = checkpoint.identity
        height, width = checkpoint.model.size
        self.name = tokenizer_name(checkpoint.model.config, checkpoint.model.size)
        self.preprocessing = Preprocessing(height=height, width=width)

    def graphs(self, batch: int | str = "batch", *, split: bool = False) -> list[GraphPlan]:
        """See `Deployable`."""
        return graph_plans(self.model, split=split, batch=batch)


def tokenizer_name(config: VQRAEConfig, size: tuple[int, int] | None) -> str:
    """The tokenizer's name, and its image size (H, W) where that is not the trained one (or None)."""
    trained = size in (None, (config.image_size, config.image_size))
    return config.name if trained or size is None else f"{config.name}-{size[0]}x{size[1]}"
