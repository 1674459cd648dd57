"""The encoder for exporters of other people: named as transformers 4 names it, the weights as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_model

from vqrae.benchmarks.studies.peer_encoder import write_peer_encoder
from vqrae.runtimes.errors import UsageError


def test_names_are_those_of_transformers_4(tmp_path: Path) -> None:
    encoder = tiny_model().encoder
    write_peer_encoder(encoder, tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    for name, tensor in encoder.network.state_dict().items():
        assert torch.equal(weights.pop(f"vision_model.{name}"), tensor)
    assert not weights
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["model_type"] == "siglip_vision_model"
    assert config["hidden_size"] == encoder.network.config.hidden_size


def test_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder: got dinov2; expected siglip_vision_model"):
        write_peer_encoder(tiny_model("dinov2").encoder, tmp_path / "encoder")
