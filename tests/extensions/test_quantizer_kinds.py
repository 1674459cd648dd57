"""A kind of quantizer that the product does not have: its class here, one row set in the process, no file edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from phases import tiny_recipe, write_photographs
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.checkpoint import CONFIG_FILE, from_pretrained, open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.model.parts import Affine
from vqrae.model.quantizers import KINDS, Kind
from vqrae.model.quantizers.config import QuantizerConfig
from vqrae.model.quantizers.quantizer import Quantized, Quantizer
from vqrae.runtimes.errors import CheckpointError, UsageError
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.training.run import TrainingRun

BITS = 6


class SignsConfig(QuantizerConfig):
    kind: Literal["signs"] = "signs"

    @model_validator(mode="after")
    def _a_bit_for_each_component(self) -> SignsConfig:
        if self.codebook_size != 2**self.code_width:
            raise ValueError(f"{self.codebook_size} codes, where {self.code_width} signs make {2**self.code_width}")
        return self


class Signs(Quantizer):
    """A code is the signs of a vector, its index their bits: no table is searched (arXiv 2310.05737)."""

    movable = False

    def __init__(self, config: SignsConfig) -> None:
        super().__init__(config)
        self.register_buffer("places", 2 ** torch.arange(self.width), persistent=False)

    def forward(self, projected_BNE: Tensor) -> Quantized:
        z_BNE = projected_BNE.float()
        indices_BN = self.indices(z_BNE.detach())
        chosen_BNE = self.lookup(indices_BN)
        return Quantized(z_BNE + (chosen_BNE - z_BNE).detach(), indices_BN, F.mse_loss(z_BNE, chosen_BNE))

    def codes(self) -> Tensor:
        return self.lookup(torch.arange(2**self.width, device=self.places.device))

    def indices(self, projected_ME: Tensor, codes_KE: Tensor | None = None) -> Tensor:
        return ((projected_ME > 0) * self.places).sum(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        return (indices[..., None] // self.places % 2 * 2.0 - 1) * self.width**-0.5

    def set_codes(self, codes_KE: Tensor) -> None:
        raise AssertionError("asked only where codes are movable")

    def search_graph(self, before: Affine, grid: tuple[int, int], dtype: torch.dtype) -> nn.Module:
        return _Search(before.as_linear(dtype), self.places, grid)

    def lookup_graph(self, after: Affine, tokens: int, dtype: torch.dtype, out: torch.dtype) -> nn.Module:
        return _Lookup(self, after.as_linear(dtype), tokens, dtype, out)


class _Search(nn.Module):
    def __init__(self, scores: nn.Linear, places: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.scores, self.grid = scores, grid
        self.register_buffer("places", places.to(torch.int32))

    def forward(self, features: Tensor) -> Tensor:
        bits_BNE = (self.scores(features) > 0).to(torch.int32)
        return (bits_BNE * self.places).sum(-1, dtype=torch.int32).reshape(-1, *self.grid)


class _Lookup(nn.Module):
    def __init__(self, signs: Signs, projection: nn.Linear, tokens: int, dtype: torch.dtype, out: torch.dtype) -> None:
        super().__init__()
        self.signs, self.projection, self.tokens, self.dtype, self.out = signs, projection, tokens, dtype, out

    def forward(self, indices: Tensor) -> Tensor:
        vectors_BNE = self.signs.lookup(indices.reshape(-1, self.tokens).long())
        return self.projection(vectors_BNE.to(self.dtype)).to(self.out)


@pytest.fixture(scope="module", autouse=True)
def _row() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "signs", Kind(f"{__name__}:SignsConfig", f"{__name__}:Signs"))
        yield


def quantizer(**fields: Any) -> dict[str, Any]:
    return {"quantizer": {"kind": "signs", "codebook_size": 2**BITS, "code_width": BITS, **fields}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that all phases of a run end with."""
    folder = write_photographs(tmp_path_factory.mktemp("photographs"))
    run = TrainingRun(tiny_recipe(**quantizer()), str(folder), tmp_path_factory.mktemp("runs") / "run")
    return [run.run(phase) for phase in run.phases()][-1]


def test_it_is_trained_saved_and_loaded(trained: Path, tmp_path: Path) -> None:
    model = from_pretrained(trained)
    assert isinstance(model.quantizer, Signs)
    assert json.loads((trained / CONFIG_FILE).read_text())["quantizer"] == quantizer()["quantizer"]
    save_pretrained(model, tmp_path / "again")
    for name in (CONFIG_FILE, "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


@torch.inference_mode()
def test_the_index_is_that_of_the_nearest_code(trained: Path) -> None:
    quantizer = from_pretrained(trained).quantizer
    z_ME = torch.randn(200, BITS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.indices(z_ME), torch.cdist(z_ME, quantizer.codes()).argmin(-1))


def test_it_is_exported_and_passes_its_gate(trained: Path, tmp_path: Path) -> None:
    tokenizer = VqraeTokenizer(open_checkpoint(str(trained)))
    with BundleBuilder(tokenizer, parity_images(None, (32, 32), 4), lambda _: None) as builder:
        row = builder.build(target("onnx"), tmp_path)
    assert (row.gate, row.misses) == ("pass", ())
    with Tokenizer.load(Path(row.bundle), trusted=True) as deployed:
        assert deployed.codebook_size == 2**BITS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "unheard-of"}, r"field quantizer\.kind: got 'unheard-of'; expected 'simvq' or 'signs'"),
        ({"kind": 3}, r"field quantizer\.kind: got 3; expected 'simvq' or 'signs'"),
        ({"codebook_size": 65}, r"field quantizer: got 65 codes, where 6 signs make 64"),
        ({"beta": 0.5}, r"field quantizer\.beta: got an unknown field"),
    ],
)
def test_what_no_kind_has_is_refused(trained: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    values = json.loads((trained / CONFIG_FILE).read_text())
    values["quantizer"] |= fields
    (tmp_path / CONFIG_FILE).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(tmp_path)


def test_codes_with_places_of_their_own_are_not_placed_again(trained: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(**quantizer())
    recipe = recipe.model_copy(update={"stage2": recipe.stage2.model_copy(update={"refit_codebook": True})})
    run = TrainingRun(recipe, str(write_photographs(tmp_path)), tmp_path / "run")
    for phase in ("pretrain", "stage1"):
        run.run(phase)
    with pytest.raises(UsageError, match=r"setting stage2\.refit_codebook: got true, with signs, whose codes have"):
        run.run("stage2")
