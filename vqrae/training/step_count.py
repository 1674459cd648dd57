"""One training step, counted as it runs: on faked tensors, or on real ones to hold the count to.

A *faked* tensor has no values but answers for a real device: autocast and attention are those of that device. On the
meta device, where models are built, autocast does not apply, and attention takes a path that no real device takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from vqrae.config import VQRAEConfig
from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.training.config import AUTOCAST
from vqrae.training.losses.terms import distillation_loss, pixel_loss
from vqrae.training.phase import transformer_blocks

StageName = Literal["stage1", "stage2"]
Precision = Literal["fp32", "bf16"]


class StepCounts(NamedTuple):
    """What one step of one device takes. FLOPs include the search; bytes are those of saved activations."""

    forward: int
    """FLOPs of the tokenizer's forward pass."""
    teacher: int
    """FLOPs of the teacher's, 0 in stage 1."""
    backward: int
    """FLOPs of the backward pass: gradients of activations wherever a trained weight lies before them, and of trained
    weights."""
    recompute: int
    """FLOPs of one more forward pass of every block that has a backward pass."""
    saved: int
    """Bytes that the forward pass keeps for the backward pass: weights cast to bfloat16 too, parameters not."""
    checkpointed: int
    """The same with activation checkpointing of the blocks that have a backward pass: what lies outside of them, each
    one's input, and one of them whole, while it is run again."""
    largest_block: int
    """Bytes of them that one block adds at most."""


def count_faked_step(config: VQRAEConfig, stage: StageName, precision: Precision, images: int) -> StepCounts:
    """`count_step` at full size without weights, values or time."""
    mode, second = FakeTensorMode(), stage == "stage2"
    with torch.device("meta"):
        model = VQRAE(config)
        teacher = Encoder(config.encoder).requires_grad_(False) if second else None
    if not second:
        model.encoder.requires_grad_(False)
    with mode:
        for module in (model, *(() if teacher is None else (teacher,))):
            _fake(module)
        return count_step(model, teacher, torch.empty(images, 3, config.image_size, config.image_size), precision)


def count_step(model: VQRAE, teacher: nn.Module | None, pixels_B3HW: Tensor, precision: Precision) -> StepCounts:
    """Run the losses of stage 1, or with a teacher those of stage 2, forward and backward, and count.

    Args:
        model: with the weights frozen that its stage freezes; gradients are added to the others.
        teacher: stage 2's frozen encoder.
        pixels_B3HW: (B, 3, H, W) float32, real or faked as the model is.
        precision: autocast dtype of the networks.
    """
    saved, counter = SavedTensors([model] if teacher is None else [model, teacher]), flop_counter()
    blocks = [_Block(block, saved, counter) for block in transformer_blocks(model) if _learns(block)]
    with counter, saved_tensors_hooks(saved.note, lambda tensor: tensor):
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
    largest = max(block.saved for block in blocks)
    return StepCounts(
        forward=forward,
        teacher=teacher_flops,
        backward=backward,
        recompute=sum(block.flops for block in blocks),
        saved=held,
        checkpointed=held + sum(block.input - block.saved for block in blocks) + largest,
        largest_block=largest,
    )


class SavedTensors:
    """Counts the bytes of what is saved for the backward pass: each storage once, those of the modules not at all."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """`modules` own the parameters and buffers that are counted elsewhere."""
        self.nbytes = 0
        owned = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        storages = (tensor.untyped_storage() for tensor in owned)
        self._known = {storage._cdata: storage for storage in storages}  # held, so that no address is taken twice

    def note(self, tensor: Tensor) -> Tensor:
        """The hook of what is saved."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage
            self.nbytes += storage.nbytes()
        return tensor


class _Block:
    """What a block adds to the saved bytes and to the FLOPs of a forward pass, and the size of its input."""

    def __init__(self, block: nn.Module, saved: SavedTensors, counter: FlopCounterMode) -> None:
        self.saved = self.input = self.flops = 0
        self._tally, self._counter = saved, counter
        block.register_forward_pre_hook(self._enter)
        block.register_forward_hook(self._leave)

    def _enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.input = inputs[0].nbytes
        self.saved, self.flops = -self._tally.nbytes, -self._counter.get_total_flops()

    def _leave(self, _: nn.Module, __: tuple[Any, ...], ___: Any) -> None:
        self.saved += self._tally.nbytes
        self.flops += self._counter.get_total_flops()


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter of matrix products, convolutions and attention, taught the CPU's attention.

    The CPU's fused attention is the same algorithm as the GPU's, whose formulas are applied to it: five products in the
    backward pass for two in the forward one, since the scores are made anew. Elementwise operations are not counted.
    """
    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop(
            query, key, value
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda gradient, query, key, value, *_, **__: (
            sdpa_backward_flop(gradient, query, key, value)
        ),
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _learns(block: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in block.parameters())


def _fake(module: nn.Module) -> None:
    """Replace every parameter and buffer by a faked one on the CPU, in place, within a `FakeTensorMode`."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
