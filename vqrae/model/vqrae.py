"""The VQRAE tokenizer in PyTorch: the reference that every deployed artifact is judged against.

Shape suffixes: B batch, N tokens (h·w), C feature width, E code width, H W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqrae.model.config import VQRAEConfig
from vqrae.model.decoder import Decoder
from vqrae.model.encoder import Encoder
from vqrae.model.layers import pixels_from_uint8, resampled_positions, uint8_from_pixels
from vqrae.model.quantizers import new_quantizer
from vqrae.runtimes.errors import UsageError

MOST_SIDE = 2**14
"""Of an image, in pixels."""


class Reconstruction(NamedTuple):
    """What a training step sees of one batch."""

    pixels: Tensor
    """Decoded pixels (B, 3, H, W), nominally in [-1, 1]."""
    features: Tensor
    """Continuous features (B, N, C): what understanding reads and what distillation holds in place."""
    indices: Tensor
    """Chosen codes, int64 (B, N)."""
    quantizer_loss: Tensor
    """Scalar float32."""


class VQRAE(nn.Module):
    """Encoder, projection in, quantizer, projection out, decoder (paper §3)."""

    def __init__(
        self, config: VQRAEConfig, encoder: Encoder | None = None, size: tuple[int, int] | None = None
    ) -> None:
        """Build with random weights; `encoder` puts a pretrained one in place.

        `size` (H, W), in pixels, is another image size than the configuration's, which the weights are trained at; see
        `resized`.

        Raises:
            UsageError: the encoder's width, patch or image size is not the decoder's.
        """
        super().__init__()
        self.config = config
        self.size = size or (config.image_size, config.image_size)
        self.grid = (self.size[0] // config.decoder.patch_size, self.size[1] // config.decoder.patch_size)
        self.encoder = encoder if encoder is not None else Encoder(config.encoder)
        _check_fit(self.encoder, config)
        self.in_projection = nn.Linear(config.feature_width, config.quantizer.code_width)
        self.quantizer = new_quantizer(config.quantizer)
        self.out_projection = nn.Linear(config.quantizer.code_width, config.feature_width)
        self.decoder = Decoder(config.decoder, self.grid)

    def forward(self, pixels_B3HW: Tensor) -> Reconstruction:
        """Pixels (B, 3, H, W) in [-1, 1] through the whole autoencoder, with gradients."""
        features_BNC = self.encoder(pixels_B3HW)
        quantized = self.quantizer(self.in_projection(features_BNC))
        pixels = self.decoder(self.out_projection(quantized.vectors))
        return Reconstruction(pixels, features_BNC, quantized.indices, quantized.loss)

    @torch.inference_mode()
    def encode_images(self, images_BHW3: Tensor, codes_KE: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, H, W, 3) RGB -> indices int32 (B, h, w) and features float32 (B, N, C).

        `codes_KE` is what `quantizer.codes()` gives; who encodes many images computes them once.
        """
        features_BNC = self.encoder(pixels_from_uint8(images_BHW3))
        # The search is in float32 whatever the autocast state.
        projected_ME = self.in_projection(features_BNC).flatten(0, 1).float()
        indices_M = self.quantizer.indices(projected_ME, codes_KE)
        return indices_M.to(torch.int32).view(-1, *self.grid), features_BNC

    @torch.inference_mode()
    def decode_indices(self, indices_Bhw: Tensor) -> Tensor:
        """Indices, any integer dtype, (B, h, w) -> images uint8 (B, H, W, 3) RGB."""
        vectors_BNE = self.quantizer.lookup(indices_Bhw.flatten(1).long())
        return uint8_from_pixels(self.decoder(self.out_projection(vectors_BNE)))


def check_size(size: tuple[int, int], patch_size: int) -> None:
    """Refuse an image size (H, W) that patches do not tile.

    Raises:
        UsageError: a side is not a positive multiple of the patch's.
    """
    for name, side in zip(("height", "width"), size, strict=True):
        if side > MOST_SIDE:
            raise UsageError(f"image {name}", got=str(side), expected=f"at most {MOST_SIDE} pixels")
        if side < patch_size or side % patch_size:
            below = side // patch_size * patch_size
            near = f"{below} or {below + patch_size}" if below else str(patch_size)
            expected = f"a multiple of the patch size, {patch_size}"
            raise UsageError(f"image {name}", got=str(side), expected=expected, remedy=f"the nearest: {near}")


def resized(model: VQRAE, size: tuple[int, int]) -> VQRAE:
    """The tokenizer for images of (H, W) pixels; the model itself if that is its size already.

    Encoder, quantizer and blocks are the same objects. The encoder interpolates its position embeddings when it sees
    the new size; the decoder's are resampled here, by the same rule.

    Raises:
        UsageError: a side is not a positive multiple of the patch size.
    """
    if size == model.size:
        return model
    check_size(size, model.config.decoder.patch_size)
    with torch.device("meta"):  # a shell, whose parts are replaced below
        other = VQRAE(model.config, encoder=model.encoder, size=size)
    other.in_projection, other.quantizer, other.out_projection = (
        model.in_projection,
        model.quantizer,
        model.out_projection,
    )
    state = model.decoder.state_dict()
    state["position_embedding"] = resampled_positions(state["position_embedding"], other.grid)
    other.decoder.load_state_dict(state, assign=True)
    return other.train(model.training)


def _check_fit(encoder: Encoder, config: VQRAEConfig) -> None:
    shape = encoder.shape
    for name, got, expected in (
        ("width", shape.width, config.decoder.width),
        ("patch size", shape.patch_size[0], config.decoder.patch_size),
        ("image size", shape.image_size[0], config.image_size),
    ):
        if got != expected:
            raise UsageError(f"encoder {name}", got=str(got), expected=f"{expected}, as the decoder of {config.name}")
