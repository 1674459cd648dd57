"""One training step, counted as it runs: on faked tensors, or on real ones to hold the count to."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vqrae.config import VQRAEConfig
from vqrae.model import VQRAE
from vqrae.training.blocks import transformer_blocks
from vqrae.training.config import AUTOCAST
from vqrae.training.cost.flops import flop_counter
from vqrae.training.cost.saved_tensors import BlockBytes, SavedTensors
from vqrae.training.cost.weightless import faked, meta_encoder, meta_model
from vqrae.training.losses.terms import distillation_loss, pixel_loss

StageName = Literal["stage1", "stage2"]
Precision = Literal["fp32", "bf16"]


class StepCount(NamedTuple):
    """What one step of one device takes. FLOPs include the search; bytes are those of saved activations."""

    forward: int
    """FLOPs of the tokenizer's forward pass."""
    teacher: int
    """FLOPs of the teacher's, 0 in stage 1."""
    backward: int
    """FLOPs of the backward pass: gradients of activations wherever a trained weight lies before them, and of trained
    weights."""
    saved: int
    """Bytes that the forward pass keeps for the backward pass: weights cast to bfloat16 too, parameters not."""
    encoder_block: int
    """Bytes of them that one block of the encoder adds, 0 where it is frozen."""
    decoder_block: int
    """Bytes of them that one block of the decoder adds."""
    encoder_input: int
    """Bytes of what enters a block of the encoder: all that activation checkpointing keeps of it."""
    decoder_input: int
    """Bytes of what enters a block of the decoder."""


def count_step(model: VQRAE, teacher: nn.Module | None, pixels_B3HW: Tensor, precision: Precision) -> StepCount:
    """Run the losses of stage 1, or with a teacher those of stage 2, forward and backward, and count.

    Args:
        model: with the weights frozen that its stage freezes; gradients are added to the others.
        teacher: stage 2's frozen encoder.
        pixels_B3HW: (B, 3, H, W) float32, real or faked as the model is.
        precision: autocast dtype of the networks.
    """
    saved = SavedTensors([model] if teacher is None else [model, teacher])
    encoder_block, decoder_block = (
        BlockBytes(transformer_blocks(part)[-1], saved) for part in (model.encoder, model.decoder)
    )
    with flop_counter() as counter, saved:
        with torch.autocast(pixels_B3HW.device.type, torch.bfloat16, enabled=AUTOCAST[precision]):
            decoded, features, _, loss = model(pixels_B3HW)
            forward = counter.get_total_flops()
            if teacher is not None:
                with torch.no_grad():
                    target = teacher(pixels_B3HW)
                loss = loss + distillation_loss(features, target)
        teacher_flops = counter.get_total_flops() - forward
        loss = loss + pixel_loss(decoded, pixels_B3HW)
        held = saved.nbytes
        loss.backward()
        backward = counter.get_total_flops() - forward - teacher_flops
    trained = features.requires_grad
    return StepCount(
        forward=forward,
        teacher=teacher_flops,
        backward=backward,
        saved=held,
        encoder_block=encoder_block.saved,
        decoder_block=decoder_block.saved,
        encoder_input=encoder_block.input if trained else 0,
        decoder_input=decoder_block.input,
    )


def count_faked_step(config: VQRAEConfig, stage: StageName, precision: Precision, batch: int) -> StepCount:
    """`count_step` at full size without weights, values or time."""
    mode = FakeTensorMode()
    model = meta_model(config)
    if stage == "stage1":
        model.encoder.requires_grad_(False)
    faked(model, mode)
    teacher = faked(meta_encoder(config).requires_grad_(False), mode) if stage == "stage2" else None
    with mode:
        pixels = torch.empty(batch, 3, config.image_size, config.image_size)
        return count_step(model, teacher, pixels, precision)
