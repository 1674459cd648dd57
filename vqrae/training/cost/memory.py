"""What one device holds at the end of a forward pass, when it is fullest but for the backward pass's own temporaries.

Not counted: temporaries of the backward pass, the search's buffer, the allocator's fragments, the CUDA context, NCCL's
buffers, DDP's buckets beyond the gradients (none with `gradient_as_bucket_view=True`).
"""

from __future__ import annotations

from typing import Literal

from vqrae.config import StrictConfig
from vqrae.training.cost.parameters import ParameterCounts
from vqrae.training.cost.step import StageName

FP32_BYTES = 4
MOMENTS = 2
"""Of AdamW, for each trained parameter."""
UNSHARDED_BLOCKS = 3
"""FSDP2 holds whole: a block's parameters, those of the block fetched ahead, and in the backward pass its gradients."""

Strategy = Literal["ddp", "fsdp2"]


class DeviceMemory(StrictConfig):
    """Bytes on one device, float32 but for the activations."""

    strategy: Strategy
    """`ddp`: every device holds everything. `fsdp2`: each holds its share of parameters, gradients, moments, average
    and teacher, and blocks are put together while they run."""
    activation_checkpointing: bool
    parameters: int
    """Of the tokenizer and the discriminator."""
    codebook: int
    """A buffer, which is not sharded."""
    gradients: int
    moments: int
    average: int
    """The exponential moving average of the trained parameters; 0 where the recipe has none."""
    teacher: int
    """Stage 2's frozen encoder."""
    unsharded: int
    """What FSDP2 puts together: the parameters outside of blocks and their gradients, and three times the largest
    block. 0 for DDP."""
    activations: int
    """Saved for the backward pass, weights cast to bfloat16 among them."""
    total: int
    """All of it."""


def device_memory(
    parameters: ParameterCounts,
    stage: StageName,
    strategy: Strategy,
    *,
    devices: int,
    ema: bool,
    activations: int,
    activation_checkpointing: bool,
) -> DeviceMemory:
    """Add up what a device holds.

    Args:
        parameters: of the model at full size.
        stage: decides what is trained, and whether there is a teacher.
        strategy: how the model is spread.
        devices: how many share it.
        ema: whether an average of the trained parameters is kept.
        activations: bytes of one forward pass on one device.
        activation_checkpointing: whether that figure is with it.
    """
    share = devices if strategy == "fsdp2" else 1
    trained = parameters.trained(stage) * FP32_BYTES
    discriminator = parameters.discriminator if stage == "stage2" else 0
    together = 2 * parameters.outside_blocks + UNSHARDED_BLOCKS * parameters.largest_block
    parts = {
        "parameters": _shared((parameters.model + discriminator) * FP32_BYTES, share),
        "codebook": parameters.codebook * FP32_BYTES,
        "gradients": _shared(trained, share),
        "moments": _shared(MOMENTS * trained, share),
        "average": _shared(trained, share) if ema else 0,
        "teacher": _shared(parameters.encoder * FP32_BYTES, share) if stage == "stage2" else 0,
        "unsharded": together * FP32_BYTES if strategy == "fsdp2" else 0,
        "activations": activations,
    }
    total = sum(parts.values())
    return DeviceMemory(strategy=strategy, activation_checkpointing=activation_checkpointing, **parts, total=total)


def _shared(nbytes: int, devices: int) -> int:
    """The largest of equal shares."""
    return -(-nbytes // devices)
