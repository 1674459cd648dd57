from __future__ import annotations

from pathlib import Path

from phases import (
    backward,
    pretraining,
    same,
    snapshot,
)

from vqrae.model.encoder import Encoder
from vqrae.training.pretrain import write_encoder


def test_pretraining_reaches_every_parameter(folder: Path) -> None:
    phase = pretraining(folder)
    terms = backward(phase)
    assert list(terms) == ["attributes", "dense", "pixel"]
    assert all(p.grad is not None for p in phase.module.parameters())
    grouped = {id(p) for group in phase.parameter_groups() for p in group["params"]}
    assert grouped == {id(p) for p in phase.module.parameters()}


def test_pretraining_writes_a_hugging_face_encoder(folder: Path, tmp_path: Path) -> None:
    phase = pretraining(folder)
    write_encoder(phase.module.encoder, tmp_path / "encoder")
    encoder = Encoder.from_pretrained(str(tmp_path / "encoder"))
    assert same(snapshot(encoder), snapshot(phase.module.encoder))
    assert encoder.config.image_mean == phase.module.encoder.config.image_mean
