from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_models import tiny_config

from vqrae.config import PRESETS, VQRAEConfig, preset
from vqrae.runtimes.errors import UsageError

# Name -> image size, patch, grid, width, depth, heads, MLP width: as in the paper and the published encoders.
SHAPES = {
    "base": (256, 16, (16, 16), 768, 12, 12, 3072),
    "internvit-300m-448": (448, 14, (32, 32), 1024, 24, 16, 4096),
    "siglip2-so400m-256": (256, 16, (16, 16), 1152, 27, 16, 4304),
    "siglip2-so400m-512": (512, 16, (32, 32), 1152, 27, 16, 4304),
    "tiny": (64, 2, (32, 32), 192, 3, 3, 768),
}


def changed(values: dict[str, Any], section: str, **fields: Any) -> dict[str, Any]:
    return {**values, section: {**values[section], **fields}}


def test_every_preset_is_listed_here() -> None:
    assert sorted(PRESETS) == sorted(SHAPES)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_preset_shapes(name: str) -> None:
    config = preset(name)
    size, patch, grid, width, depth, heads, mlp_width = SHAPES[name]
    decoder = config.decoder
    assert (config.image_size, config.grid, config.feature_width) == (size, grid, width)
    assert (decoder.patch_size, decoder.width, decoder.depth) == (patch, width, depth)
    assert (decoder.heads, decoder.mlp_width) == (heads, mlp_width)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_preset_decoder_mirrors_its_encoder(name: str) -> None:
    config = preset(name)
    network, decoder = config.encoder.network, config.decoder
    assert network["hidden_size"] == decoder.width
    assert network["num_hidden_layers"] == decoder.depth
    assert network["num_attention_heads"] == decoder.heads
    assert network["intermediate_size"] == decoder.mlp_width
    assert network["patch_size"] in (decoder.patch_size, [decoder.patch_size] * 2)
    assert network["image_size"] in (config.image_size, [config.image_size] * 2)


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"tiny"}))
def test_the_papers_codebook(name: str) -> None:
    quantizer = preset(name).quantizer
    assert (quantizer.codebook_size, quantizer.code_width, quantizer.beta) == (16384, 1536, 0.25)
    assert quantizer.init == "normal"


def test_configurations_are_read_without_torch() -> None:
    """An encoder's family and a quantizer's kind are files with networks in them, whose fields are checked here."""
    blocked = "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None)"
    read = "from vqrae.config import PRESETS, preset; print(*(preset(name).encoder.family for name in PRESETS))"
    command = [sys.executable, "-c", f"{blocked}; {read}"]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    assert len(finished.stdout.split()) == len(PRESETS)


def test_tiny_draws_its_codes_from_features() -> None:
    assert preset("tiny").quantizer.init == "features"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("siglip2-so400m-25", "siglip2-so400m-256"), ("tinny", "tiny"), ("internvit-448", "internvit-300m-448")],
)
def test_unknown_preset_suggests_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^preset: got '{wrong}'; expected one of tiny, .*; did you mean {nearest}\?$"
    ):
        preset(wrong)


def test_a_preset_unlike_all_others_gets_no_suggestion() -> None:
    with pytest.raises(UsageError, match=r"got 'zzz'; expected one of [^?]*$"):
        preset("zzz")


def test_round_trip_through_json() -> None:
    for name in PRESETS:
        config = preset(name)
        assert VQRAEConfig.model_validate_json(config.model_dump_json()) == config


def test_configurations_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_config().image_size = 64


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("quantizer", {"codes": 5}, "Extra inputs are not permitted"),
        ("encoder", {"mean": [0, 0, 0]}, "Extra inputs are not permitted"),
        ("decoder", {"dropout": 0.1}, "Extra inputs are not permitted"),
        ("quantizer", {"codebook_size": 1}, "greater than 1"),
        ("quantizer", {"beta": -0.1}, "greater than or equal to 0"),
        ("quantizer", {"init": "zeros"}, "'normal' or 'features'"),
        ("encoder", {"family": "resnet"}, "'siglip_vision_model', 'dinov2' or 'internvl_vision'"),
        ("encoder", {"image_mean": [0.5, 0.5]}, "Field required"),
        ("decoder", {"heads": 5}, "width 32 is not a multiple of heads 5"),
        ("decoder", {"patch_size": 7}, "image_size 32 is not a multiple of patch_size 7"),
        ("decoder", {"depth": 0}, "greater than 0"),
    ],
)
def test_bad_values_are_refused(section: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VQRAEConfig.model_validate(changed(tiny_config().model_dump(), section, **fields))


def test_an_unknown_key_at_the_top_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        VQRAEConfig.model_validate({**tiny_config().model_dump(), "tokens": 16})
