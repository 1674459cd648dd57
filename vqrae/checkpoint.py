"""A checkpoint on disk: a folder with `config.json` and `model.safetensors`, and nothing that executes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vqrae.config import PRESETS, VQRAEConfig, preset
from vqrae.model.vqrae import VQRAE, check_size, resized
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import CheckpointError, UsageError
from vqrae.runtimes.json_text import read_object, validated
from vqrae.runtimes.manifest import CheckpointIdentity
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import check_finite, save_tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MODEL_TYPE = "vqrae"
RANDOM_SEED = 0
"""Seed of the weights when a preset's name stands in for a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model and where it came from."""

    model: VQRAE
    identity: CheckpointIdentity


def save_pretrained(model: VQRAE, folder: Path, *, overwrite: bool = False) -> None:
    """Write the model's configuration and float32 weights; the folder appears whole or not at all."""
    with staged_folder(folder, overwrite=overwrite) as staging:
        staging.mkdir(exist_ok=True)
        (staging / CONFIG_FILE).write_text(_config_text(model.config))
        state = {name: tensor.float() for name, tensor in model.state_dict().items()}
        save_tensors(state, staging / WEIGHTS_FILE, {"format": "pt"})


def from_pretrained(folder: Path | str) -> VQRAE:
    """Load a checkpoint folder strictly, in float32, in eval mode.

    Raises:
        CheckpointError: a file is missing or unreadable, or keys, shapes or dtypes differ from the configuration's.
    """
    folder = Path(folder)
    return _load_weights(_build(folder / CONFIG_FILE), folder / WEIGHTS_FILE).eval()


def open_config(source: str) -> VQRAEConfig:
    """The configuration of a checkpoint folder or a preset, without any weights.

    Raises:
        CheckpointError: `source` is neither a preset nor a folder with a valid configuration.
    """
    if Path(source).is_dir():
        return read_config(Path(source) / CONFIG_FILE)
    if source in PRESETS:
        return preset(source)
    expected = f"a checkpoint folder, or for random weights one of {', '.join(PRESETS)}"
    raise CheckpointError(source, got="no such folder or preset", expected=expected)


def open_checkpoint(source: str, size: tuple[int, int] | None = None) -> Checkpoint:
    """Open a checkpoint folder, or build a preset with seeded random weights (the identity says so).

    Args:
        source: the folder, or the preset's name.
        size: (H, W) in pixels that the model is for; None leaves the trained one.

    Raises:
        CheckpointError: `source` is neither a preset nor a readable checkpoint folder.
        UsageError: patches do not tile `size`.
    """
    config = open_config(source)
    if size is not None:
        check_size(size, config.decoder.patch_size)  # before the weights, which take long
    if Path(source).is_dir():
        model = from_pretrained(source)
        weights_sha256 = sha256_file(Path(source) / WEIGHTS_FILE)
    else:
        torch.manual_seed(RANDOM_SEED)
        model = VQRAE(config).eval()
        weights_sha256 = _digest(model)
    identity = CheckpointIdentity(
        name=model.config.name,
        source=source,
        weights_sha256=weights_sha256,
        config_sha256=hashlib.sha256(_config_text(model.config).encode()).hexdigest(),
        random_weights=not Path(source).is_dir(),
    )
    return Checkpoint(model=model if size is None else resized(model, size), identity=identity)


def read_config(path: Path) -> VQRAEConfig:
    """Read and validate a `config.json`; raises CheckpointError, by field."""
    values = read_object(path, CheckpointError, "a readable config.json")
    if values.pop("model_type", None) != MODEL_TYPE:
        raise CheckpointError(str(path), got="another model's configuration", expected=f"model_type {MODEL_TYPE!r}")
    return validated(str(path), values, VQRAEConfig, CheckpointError)


def _config_text(config: VQRAEConfig) -> str:
    return json.dumps({"model_type": MODEL_TYPE, **config.model_dump(mode="json")}, indent=2) + "\n"


def _build(path: Path) -> VQRAE:
    """The model of a `config.json`, without memory: what it says is compared with the weights before any is taken."""
    config = read_config(path)
    try:
        with torch.device("meta"):
            return VQRAE(config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, StrictDataclassError, UsageError) as error:
        expected = f"a {config.encoder.family} configuration"
        raise CheckpointError(f"{path} field encoder.network", got=str(error), expected=expected) from error


def _load_weights(described: VQRAE, path: Path) -> VQRAE:
    """The model with its weights, each copied straight into it, so that a large checkpoint is never held twice."""
    try:
        with safe_open(path, framework="pt") as weights:
            shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
            _check_tensors(path, shapes, described.state_dict())
            model = VQRAE(described.config)
            for name, tensor in model.state_dict().items():
                stored = weights.get_tensor(name)
                if stored.dtype != tensor.dtype:
                    raise CheckpointError(f"{path} tensor {name}", got=str(stored.dtype), expected=str(tensor.dtype))
                check_finite(f"{path} tensor {name}", stored)
                tensor.copy_(stored)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), got=str(error), expected="a whole safetensors file") from error
    return model


def _check_tensors(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor]) -> None:
    for got, names in (
        ("no tensor", wanted.keys() - found.keys()),
        ("an unknown tensor", found.keys() - wanted.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            expected = "exactly the tensors of config.json"
            raise CheckpointError(str(path), got=f"{got} {sorted(names)[0]}{more}", expected=expected)
    for name, tensor in wanted.items():
        if found[name] != tuple(tensor.shape):
            got, expected = f"shape {list(found[name])}", f"shape {list(tensor.shape)}"
            raise CheckpointError(f"{path} tensor {name}", got=got, expected=expected)


def _digest(model: VQRAE) -> str:
    """SHA-256 over all tensors in name order, for weights that no file holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
