"""A family of encoders that the product does not have: its class here, one row set in the process, no file edited."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from phases import tiny_recipe, write_photographs
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqrae.checkpoint import from_pretrained, open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.form import FP64
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import EncoderGraph, VqraeTokenizer
from vqrae.model.encoder import Encoder
from vqrae.model.encoders import FAMILIES, EncoderFamily, Shape
from vqrae.model.layers import Block, resampled_positions
from vqrae.model.parts import EncoderParts
from vqrae.model.vqrae import resized
from vqrae.runtimes.errors import CheckpointError
from vqrae.training.run import TrainingRun

VALUES = {"width": 32, "depth": 2, "patch": 8, "size": 32}


class ToyFields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    width: Annotated[int, Field(ge=4, le=64)]
    depth: Annotated[int, Field(ge=1, le=8)]
    patch: Annotated[int, Field(ge=1, le=64)]
    size: Annotated[int, Field(ge=1, le=64)]


class ToyNetwork(nn.Module):
    """Two learned tokens, which other families have one or none of, before patches of a square image."""

    def __init__(self, values: Mapping[str, int]) -> None:
        super().__init__()
        self.values = dict(values)
        width, patch = values["width"], values["patch"]
        self.convolution = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.randn(1, 2, width))
        self.positions = nn.Parameter(torch.randn((values["size"] // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, 4, 2 * width, 1e-6) for _ in range(values["depth"]))
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        patches = self.convolution(pixels)
        positions = resampled_positions(self.positions, tuple(patches.shape[-2:]))
        x = torch.cat([self.first.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2) + positions], 1)
        states = []
        for block in self.blocks:
            states.append(x := block(x))
        return [*states, self.norm(x)]


class Toy(EncoderFamily):
    fields = ToyFields
    prefix_tokens = 2
    normalization = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def build(self, values: Mapping[str, Any]) -> ToyNetwork:
        return ToyNetwork(values)

    def load(self, source: str, values: Mapping[str, Any], inside: str) -> ToyNetwork:
        network = ToyNetwork(values)
        network.load_state_dict(load_file(Path(source) / "model.safetensors"))
        return network

    def save(self, network: ToyNetwork, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"model_type": "toy", **network.values}))
        save_file(network.state_dict(), folder / "model.safetensors")

    def shape(self, network: ToyNetwork) -> Shape:
        size, patch = network.values["size"], network.values["patch"]
        return Shape(network.values["width"], network.values["depth"], (size, size), (patch, patch))

    def hidden_states(self, network: ToyNetwork, pixels: Tensor, depths: Sequence[int]) -> list[Tensor]:
        *states, features = network(pixels)
        return [*(states[depth - 1] for depth in depths), features]

    def positions(self, network: ToyNetwork) -> Tensor:
        return network.positions

    def parts(self, network: ToyNetwork) -> EncoderParts:
        return EncoderParts(
            convolution=network.convolution,
            prefix_1TC=network.first.detach(),
            positions_NC=network.positions.detach(),
            blocks=tuple(block.parts() for block in network.blocks),
            norm=network.norm,
        )


@pytest.fixture(scope="module", autouse=True)
def _row() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", f"{__name__}:Toy")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through all phases, its encoder's pre-training first."""
    folder = write_photographs(tmp_path_factory.mktemp("photographs"))
    encoder = {"family": "toy", "network": VALUES, "image_mean": (0.4, 0.5, 0.6)}
    run = TrainingRun(tiny_recipe(encoder=encoder), str(folder), tmp_path_factory.mktemp("runs") / "run")
    for phase in run.phases():
        run.run(phase)
    return run.folder


def test_a_pretrained_one_is_read_by_its_family(run: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(str(run / "encoder"))
    assert (encoder.config.family, encoder.config.network) == ("toy", VALUES)
    assert encoder.config.image_std == (0.25, 0.25, 0.25), "the family's own, where the checkpoint says nothing"
    text = json.dumps({"model_type": "toy", **VALUES, "depth": 99})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        CheckpointError, match="got depth 99, where less than or equal to 8 is expected; expected a toy"
    ):
        Encoder.from_pretrained(str(tmp_path))


def test_it_is_trained_saved_and_loaded(run: Path, tmp_path: Path) -> None:
    model, encoder = from_pretrained(run / "stage2"), Encoder.from_pretrained(str(run / "encoder"))
    assert isinstance(model.encoder.network, ToyNetwork)
    assert not torch.equal(model.encoder.network.first, encoder.network.first), "stage 2 trains the encoder"
    save_pretrained(model, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (run / "stage2" / name).read_bytes()


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@torch.inference_mode()
def test_its_folded_graph_is_the_network(run: Path, size: tuple[int, int]) -> None:
    model = resized(from_pretrained(run / "stage2").double(), size)
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = model.encoder(images.permute(0, 3, 1, 2).double() / 127.5 - 1)
    assert (EncoderGraph(model, FP64)(images) - expected).abs().max() < 1e-11


def test_it_is_exported_and_passes_its_gate(run: Path, tmp_path: Path) -> None:
    tokenizer = VqraeTokenizer(open_checkpoint(str(run / "stage2")))
    with BundleBuilder(tokenizer, parity_images(None, (32, 32), 4), lambda _: None) as builder:
        row = builder.build(target("onnx"), tmp_path)
    assert (row.gate, row.misses) == ("pass", ())
