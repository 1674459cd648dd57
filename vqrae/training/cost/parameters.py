"""How many numbers a tokenizer consists of, and which of them a stage trains."""

from __future__ import annotations

from torch import nn

from vqrae.config import StrictConfig
from vqrae.model import VQRAE
from vqrae.training.blocks import transformer_blocks
from vqrae.training.cost.step import StageName


class ParameterCounts(StrictConfig):
    """Numbers of values, counted on the model at full size."""

    encoder: int
    projections: int
    """Into the codes' width and out of it."""
    codes_map: int
    """SimVQ's learnable map (W, w)."""
    codebook: int
    """The frozen codes: a buffer, no parameter."""
    decoder: int
    discriminator: int
    """Of the adversarial term; 0 where the recipe has none."""
    trained_stage1: int
    """What the first stage has gradients and moments of; the discriminator is the second's alone."""
    trained_stage2: int
    largest_block: int
    """The largest transformer block, which FSDP2 puts together at a time."""
    outside_blocks: int
    """Everything that lies in no block, which FSDP2 keeps together during a step."""

    @property
    def model(self) -> int:
        """All parameters of the tokenizer."""
        return self.encoder + self.projections + self.codes_map + self.decoder

    def trained(self, stage: StageName) -> int:
        """Parameters with a gradient in a stage."""
        return self.trained_stage1 if stage == "stage1" else self.trained_stage2


def count_parameters(model: VQRAE, discriminator: int = 0) -> ParameterCounts:
    """Count a model, on any device; it is left unfrozen as stage 2 has it."""
    encoder = _count(model.encoder)
    of_blocks = [_count(block) for block in transformer_blocks(model)]
    everything = _count(model)
    model.encoder.unfreeze()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ParameterCounts(
        encoder=encoder,
        projections=_count(model.in_projection) + _count(model.out_projection),
        codes_map=_count(model.quantizer),
        codebook=sum(buffer.numel() for buffer in model.quantizer.buffers()),
        decoder=_count(model.decoder),
        discriminator=discriminator,
        trained_stage1=everything - encoder,
        trained_stage2=trained + discriminator,
        largest_block=max(of_blocks),
        outside_blocks=everything - sum(of_blocks),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
