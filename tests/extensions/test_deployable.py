"""A tokenizer that this project has never heard of: residual codes, two a token, and names of its own for its layers.

It is exported, judged, verified, tested and loaded as VQRAE is; only to encode, or only to decode.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import vqrae
from vqrae.calibration.images import CalibrationImages
from vqrae.export.build import BundleBuilder
from vqrae.export.comparison import verify_bundles
from vqrae.export.deployable import GraphPlan
from vqrae.export.form import FP32, Form
from vqrae.export.formats import target
from vqrae.export.graphs.operators import images_from_patches, patches_from_images
from vqrae.export.parity_images import ParityImages, parity_images
from vqrae.model.search import argmax_by_slices
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.code_space import moved_costs
from vqrae.runtimes.errors import BundleError, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import CheckpointIdentity, Preprocessing, Tokens, signature
from vqrae.runtimes.precision import Budget
from vqrae.runtimes.selftest import selftest
from vqrae.serving.models import models_of

SIDE, PATCH, GRID = 16, 4, (4, 4)
WIDTH, CODE, CODES, LEVELS = 24, 8, 32, 2
Part = Literal["encode", "decode"]


class Looker(nn.Module):
    """Images uint8 (B, 16, 16, 3) -> indices int32 (B, 2, 4, 4), and features (B, 16, 8) where these are wanted."""

    def __init__(self, form: Form, *, tells: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.tells = form, tells
        self.stem, self.knead = nn.Linear(PATCH * PATCH * 3, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.narrow = nn.Linear(WIDTH, CODE)
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(CODES, CODE) / (1 + level)) for level in range(LEVELS))
        self.coarse, self.fine = (scorer(table) for table in self.tables)
        self.requires_grad_(False)
        for part in (self.stem, self.knead, self.narrow):
            part.to(form.compute)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        patches_BNP = patches_from_images(images.to(self.form.compute), GRID, PATCH)
        x_BNC = self.stem(patches_BNP / 64)
        features_BNE = self.narrow(x_BNC + self.knead(x_BNC.relu())).to(self.form.kept)
        first_BN = argmax_by_slices(self.coarse(features_BNE))
        left_BNE = features_BNE - nn.functional.embedding(first_BN, self.tables[0])
        codes_BgN = torch.stack([first_BN, argmax_by_slices(self.fine(left_BNE))], dim=1)
        indices = codes_BgN.to(torch.int32).reshape(-1, LEVELS, *GRID)
        return (indices, features_BNE) if self.tells else indices


class Painter(nn.Module):
    """Indices int32 (B, 2, 4, 4) -> images uint8 (B, 16, 16, 3)."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.tables = Looker(FP32, tells=False).tables
        self.brush = nn.Linear(CODE, PATCH * PATCH * 3).requires_grad_(False).to(form.compute)

    def forward(self, indices: Tensor) -> Tensor:
        codes_BgN = indices.reshape(-1, LEVELS, GRID[0] * GRID[1])
        vectors = [nn.functional.embedding(codes_BgN[:, n], table) for n, table in enumerate(self.tables)]
        patches_BNP = self.brush((vectors[0] + vectors[1]).to(self.form.compute)) * 64 + 128
        return images_from_patches(patches_BNP, GRID, PATCH).round().clamp(0, 255).to(self.form.images)


def scorer(table_KE: Tensor) -> nn.Linear:
    layer = nn.Linear(CODE, CODES)
    layer.weight, layer.bias = nn.Parameter(table_KE.clone()), nn.Parameter(-table_KE.square().sum(1) / 2)
    return layer


class Residual:
    """A `CodeSpace` of two levels: the second code is for what the first one leaves."""

    def __init__(self) -> None:
        self.tables = [table.double().numpy() for table in Looker(FP32, tells=False).tables]

    def _each(self, features_MC: NDArray[np.float32], codes_Mg: NDArray[np.integer]) -> list[NDArray[np.float64]]:
        left, found = features_MC.astype(np.float64), []
        for table, codes in zip(self.tables, codes_Mg.T, strict=True):
            found.append(np.square(left[:, None] - table).sum(2))
            left = left - table[codes]
        return found

    def cost(self, features_MC: NDArray[np.float32], codes_Mg: NDArray[np.integer]) -> NDArray[np.float64]:
        costs = self._each(features_MC, codes_Mg)
        return np.stack([np.take_along_axis(c, i[:, None], 1)[:, 0] for c, i in zip(costs, codes_Mg.T, strict=True)], 1)

    def best_two(self, features_MC: NDArray[np.float32], codes_Mg: NDArray[np.integer]) -> NDArray[np.int32]:
        order = [costs.argsort(1)[:, :2] for costs in self._each(features_MC, codes_Mg)]
        return np.stack(order, 1).astype(np.int32)

    def moved(
        self,
        features_MC: NDArray[np.float32],
        other_MC: NDArray[np.float32],
        first_Mg: NDArray[np.integer],
        second_Mg: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        return moved_costs(self, features_MC, other_MC, first_Mg, second_Mg)

    def rounding(self, features_MC: NDArray[np.float32]) -> float:
        return float(8 * np.finfo(np.float32).eps * np.abs(features_MC).max() * CODE)


class Toy:
    """A `Deployable` that has one of the two graphs, or both."""

    def __init__(self, *parts: Part, tells: bool = True, roleless: str = "") -> None:
        self.parts, self.tells, self.roleless = parts, tells, roleless
        self.name = f"toy-{'-'.join(parts)}"
        made = {"source": "nowhere", "weights_sha256": "0" * 64, "config_sha256": "0" * 64, "random_weights": True}
        self.identity = CheckpointIdentity(name="toy", **made)
        self.preprocessing = Preprocessing(height=SIDE, width=SIDE)
        told = CODE if tells and "encode" in parts else None
        self.tokens = Tokens(grid=GRID, codebook_size=CODES, feature_width=told, levels=LEVELS)
        self.space = Residual() if "encode" in parts else None

    def graphs(self, batch: int | str = "batch", *, split: bool = False) -> list[GraphPlan]:
        made: dict[Part, Callable[[Form], nn.Module]] = {
            "encode": self._looker,
            "decode": Painter,
        }
        roles = {
            "encode": {"stem": "patch", "knead": "mlp", "narrow": "mlp", "coarse": "scores", "fine": "scores"},
            "decode": {"brush": "head"},
        }
        plans = []
        for name in self.parts:
            (given,), outputs = signature(name, self.preprocessing, self.tokens, batch=batch)
            own = {layer: role for layer, role in roles[name].items() if layer != self.roleless}
            plans.append(GraphPlan(name=name, module=made[name], input=given, outputs=outputs, roles=own))
        return plans

    def _looker(self, form: Form) -> nn.Module:
        return Looker(form, tells=self.tells)

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8], /) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        indices, features = Looker(FP32, tells=True)(torch.from_numpy(images))
        return indices.numpy(), features.numpy()

    @torch.inference_mode()
    def decode(self, indices: NDArray[np.int32], /) -> NDArray[np.uint8]:
        return Painter(FP32)(torch.from_numpy(indices)).numpy()


@pytest.fixture(scope="module")
def photographs() -> ParityImages:
    return parity_images(None, (SIDE, SIDE), 6)


@pytest.fixture(scope="module")
def calibration() -> CalibrationImages:
    images = np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    names, digests = tuple(map(str, range(8))), tuple(f"{n:064x}" for n in range(8))
    return CalibrationImages(names=names, images=images, sha256=digests, seed=1, duplicates=0)


@pytest.mark.parametrize("tells", [True, False])
def test_a_tokenizer_that_only_encodes(photographs: ParityImages, tmp_path: Path, tells: bool) -> None:
    """Two codes a token, with features or without."""
    toy = Toy("encode", tells=tells)
    with BundleBuilder(toy, photographs, lambda _: None) as builder:
        row = builder.build(target("onnx"), tmp_path)
        again, *_ = verify_bundles([Bundle.open(row.bundle)], builder.reference, LoadOptions(), lambda _: None)
    assert (row.gate, again.gate, selftest(row.bundle).gate) == ("pass", "pass", "pass")
    with vqrae.load(row.bundle) as tokenizer:
        indices, features = tokenizer.encode(photographs.images)
        assert (tokenizer.manifest.format_version, tokenizer.levels) == ("1.3", LEVELS)
        assert models_of(tokenizer.manifest, max_batch=1).keys() == {"encode"}
        with pytest.raises(BundleError, match="a graph decode"):
            tokenizer.decode(indices)
    wanted, told = toy.encode(photographs.images)
    assert np.array_equal(indices, wanted)
    assert features.shape == (*told.shape[:2], CODE if tells else 0)


def test_a_tokenizer_that_only_decodes(photographs: ParityImages, tmp_path: Path) -> None:
    with BundleBuilder(Toy("decode"), photographs, lambda _: None) as builder:
        row = builder.build(target("onnx"), tmp_path)
    report = selftest(row.bundle)
    assert (row.gate, report.gate, report.token_agreement) == ("pass", "pass", None)


def test_int8_by_declared_roles(photographs: ParityImages, calibration: CalibrationImages, tmp_path: Path) -> None:
    wanted = target("onnx", "int8", budget=Budget(max_excess_distortion=0.5))
    with BundleBuilder(Toy("encode"), photographs, lambda _: None, calibration, timing=lambda *_: {}) as builder:
        row = builder.build(wanted, tmp_path)
        layers = builder.sources.plan(wanted)
    assert layers is not None
    kept = {layer for layer, precision in layers.layers.items() if precision == "float"}
    assert (row.gate, kept) == ("pass", {"stem", "coarse", "fine"})


def test_a_layer_without_a_role_is_refused_at_int8(
    photographs: ParityImages, calibration: CalibrationImages, tmp_path: Path
) -> None:
    toy = Toy("encode", roleless="knead")
    with (
        BundleBuilder(toy, photographs, lambda _: None, calibration) as builder,
        pytest.raises(UsageError, match="layer knead at INT8: got no role"),
    ):
        builder.build(target("onnx", "int8"), tmp_path)
