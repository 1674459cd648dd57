"""What a step takes as a function of its images, from counts of shallow models.

Every count is a sum over identical blocks, and over images that do not meet: linear in the depth of the encoder, in the
depth of the decoder, and in the batch. So models of the full width with one and two blocks, at one and two images, tell
all of it, in seconds instead of minutes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from vqrae.config import VQRAEConfig
from vqrae.model.search import chunked_nearest_codes
from vqrae.training.blocks import transformer_blocks
from vqrae.training.cost.flops import flop_counter
from vqrae.training.cost.step import Precision, StageName, StepCount, count_faked_step
from vqrae.training.cost.weightless import meta_encoder


class Linear(NamedTuple):
    """A quantity that has a part for each step and a part for each image in it."""

    per_step: int
    per_image: int

    def at(self, images: int) -> int:
        """The quantity of a step of so many images."""
        return self.per_step + self.per_image * images


class StepCost(NamedTuple):
    """`StepCount`, as it depends on the images; FLOPs without the search, which is counted apart."""

    forward: Linear
    """Part for each step: the map of the codes."""
    teacher: Linear
    backward: Linear
    recompute: Linear
    """One more forward pass of every block that has a backward pass: at most what activation checkpointing adds."""
    search: int
    """FLOPs of an image's tokens × codes products."""
    saved: Linear
    """Bytes that are held when the forward pass ends. Part for each step: weights cast to bfloat16, effective codes."""
    checkpointed: Linear
    """The same with activation checkpointing of the blocks that have a backward pass: what lies outside of them, each
    one's input, and one of them whole, while it is run again."""


def step_cost(config: VQRAEConfig, stage: StageName, precision: Precision) -> StepCost:
    """Count the steps of one stage of a tokenizer of any size."""
    depths = Depths(len(transformer_blocks(meta_encoder(config))), config.decoder.depth)
    one, two = (_at_full_depth(config, depths, stage, precision, batch) for batch in (1, 2))
    lines = {name: _line(one[name], two[name]) for name in one}
    search = _search_flops(config)
    return StepCost(
        forward=Linear(lines["forward"].per_step, lines["forward"].per_image - search),
        teacher=lines["teacher"],
        backward=lines["backward"],
        recompute=lines["recompute"],
        search=search,
        saved=lines["saved"],
        checkpointed=lines["checkpointed"],
    )


class Depths(NamedTuple):
    """Blocks of the encoder and of the decoder."""

    encoder: int
    decoder: int


def _line(one: int, two: int) -> Linear:
    """Through the values at one and at two images."""
    return Linear(per_step=2 * one - two, per_image=two - one)


def _at_full_depth(
    config: VQRAEConfig, depths: Depths, stage: StageName, precision: Precision, batch: int
) -> dict[str, int]:
    """The counts of a step, and what checkpointing makes of them, from three shallow models."""
    shallow, encoder_deeper, decoder_deeper = (
        count_faked_step(_with_depths(config, points), stage, precision, batch)
        for points in (Depths(1, 1), Depths(2, 1), Depths(1, 2))
    )
    encoder_block = _difference(encoder_deeper, shallow)
    decoder_block = _difference(decoder_deeper, shallow)
    full = {
        name: value + (depths.encoder - 1) * encoder_block[name] + (depths.decoder - 1) * decoder_block[name]
        for name, value in shallow._asdict().items()
    }
    in_blocks = depths.encoder * shallow.encoder_block + depths.decoder * shallow.decoder_block
    inputs = depths.encoder * shallow.encoder_input + depths.decoder * shallow.decoder_input
    largest_block = max(shallow.encoder_block, shallow.decoder_block)
    trained_encoder_depth = depths.encoder if stage == "stage2" else 0
    return {
        "forward": full["forward"],
        "teacher": full["teacher"],
        "backward": full["backward"],
        "recompute": trained_encoder_depth * encoder_block["forward"] + depths.decoder * decoder_block["forward"],
        "saved": full["saved"],
        "checkpointed": full["saved"] - in_blocks + inputs + largest_block,
    }


def _difference(deeper: StepCount, shallow: StepCount) -> dict[str, int]:
    return {name: value - getattr(shallow, name) for name, value in deeper._asdict().items()}


def _with_depths(config: VQRAEConfig, depths: Depths) -> VQRAEConfig:
    network = config.encoder.network | {"num_hidden_layers": depths.encoder}
    encoder = config.encoder.model_copy(update={"network": network})
    decoder = config.decoder.model_copy(update={"depth": depths.decoder})
    return config.model_copy(update={"encoder": encoder, "decoder": decoder})


def _search_flops(config: VQRAEConfig) -> int:
    """Of one image: the search itself, on the meta device."""
    tokens = config.grid[0] * config.grid[1]
    sizes = (tokens, config.quantizer.code_width), (config.quantizer.codebook_size, config.quantizer.code_width)
    with flop_counter() as counter:
        chunked_nearest_codes(*(torch.empty(size, device="meta") for size in sizes))
    return counter.get_total_flops()
