"""A vision network out of a Hugging Face checkpoint: where its files are, what they say of it, and its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import nn
from transformers.utils.hub import cached_file

from vqrae.model.config import EncoderConfig
from vqrae.model.encoders import FAMILIES, Triple, encoder_family
from vqrae.runtimes.errors import CheckpointError
from vqrae.runtimes.json_text import read_object, validated
from vqrae.tensor_file import check_finite, check_held

CONFIG_FILE = "config.json"
PROCESSOR_FILE, PREPROCESSOR_FILE = "processor_config.json", "preprocessor_config.json"
"""Of transformers 5, with the image processor inside, which comes first; of transformers 4."""

_Number = Annotated[float, Field(ge=-1e6, le=1e6)]
_Positive = Annotated[float, Field(ge=1e-9, le=1e6)]
NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""What can be a model's name on the hub."""


def read_pretrained(source: str) -> tuple[EncoderConfig, nn.Module]:
    """A checkpoint's vision network, in float32, and what it is; `source` is a folder or a hub's name.

    Raises:
        CheckpointError: the checkpoint is of another kind, cannot be read, or lacks weights of the vision network.
    """
    with foreign_errors(source):
        name, values, inside = _described(source)
        family = encoder_family(name)
        try:
            checked = {**family.checked(family.known(values)), **family.pretrained}
        except ValueError as error:
            raise CheckpointError(f"{source} {CONFIG_FILE}", got=str(error), expected=f"a {name}") from error
        mean, std = _normalization(source, family.normalization)
        config = EncoderConfig(family=name, network=checked, image_mean=mean, image_std=std)
        with torch.device("meta"):
            check_held(source, sum(parameter.numel() for parameter in family.build(checked).parameters()))
        network = family.load(source, checked, inside)
        for tensor_name, tensor in network.state_dict().items():
            check_finite(f"{source} tensor {tensor_name}", tensor)
    return config, network.float()


@contextmanager
def foreign_errors(source: str, expected: str = "a Hugging Face checkpoint") -> Iterator[None]:
    """What transformers raises over a checkpoint, as one line; raises CheckpointError."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        got = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(source, got=got, expected=expected) from error


def _described(source: str) -> tuple[str, dict[str, Any], str]:
    """The family of a checkpoint's vision network, its own configuration, and where in the weights it is.

    Read as a file of JSON, so that nothing that a configuration may ask of transformers is done: its own code, another
    kernel.
    """
    values = read_object(required_file(source, CONFIG_FILE), CheckpointError, f"a readable {CONFIG_FILE}")
    kind = values.get("model_type")
    expected = f"one of {', '.join(FAMILIES)}"
    if not isinstance(kind, str):
        raise CheckpointError(source, got="no model_type", expected=expected)
    families = {name: encoder_family(name) for name in FAMILIES}
    for family in families.values():
        if kind in family.near_misses:
            raise CheckpointError(source, got=f"a {kind} model", expected=expected, remedy=family.near_misses[kind])
    name = next((name for name, family in families.items() if kind == name or kind in family.holders), None)
    if name is None:
        raise CheckpointError(source, got=f"a {kind:.80} model", expected=expected)
    if "quantization_config" in values:
        raise CheckpointError(source, got="quantized weights", expected="weights in floating point")
    if kind == name:
        return name, values, ""
    values = values.get("vision_config", {})
    if not isinstance(values, dict):
        raise CheckpointError(f"{source} field vision_config", got=type(values).__name__, expected="a JSON object")
    return name, values, families[name].holders[kind]


class _ImageProcessor(BaseModel):
    """The fields that say what becomes of a pixel's value."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    do_rescale: bool | None = None
    rescale_factor: _Positive | None = None
    do_normalize: bool | None = None
    image_mean: _Number | tuple[_Number, _Number, _Number] | None = None
    image_std: _Positive | tuple[_Positive, _Positive, _Positive] | None = None


def _normalization(source: str, default: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Mean and standard deviation, for pixels in [0, 1], of what a checkpoint's image processor does to bytes.

    What is not read (sizes, crops, resampling) is the toolkit's own rule's to say. `default` is what the family's
    processor has where the file says nothing.

    Raises:
        CheckpointError: a file cannot be read, or a field is of another kind or out of bounds.
    """
    processor, preprocessor = (checkpoint_file(source, name) for name in (PROCESSOR_FILE, PREPROCESSOR_FILE))
    path, values = _image_processor(processor, preprocessor)
    if path is None:
        return default
    read = validated(str(path), values, _ImageProcessor, CheckpointError)
    factor = (1 / 255 if read.rescale_factor is None else read.rescale_factor) if read.do_rescale is not False else 1.0
    scale = 255 * factor  # the processor sees bytes, we see [0, 1]
    if read.do_normalize is False:
        return _triple(0.0), _triple(1 / scale)
    mean = default[0] if read.image_mean is None else _triple(read.image_mean)
    std = default[1] if read.image_std is None else _triple(read.image_std)
    if scale == 1:
        return mean, std  # as they stand, without rounding
    return _divided(mean, scale), _divided(std, scale)


def _image_processor(processor: Path | None, preprocessor: Path | None) -> tuple[Path | None, Mapping[str, Any]]:
    """The file that counts, and what it says of images."""
    for path in (processor, preprocessor):
        if path is None:
            continue
        values = read_object(path, CheckpointError, f"a readable {path.name}")
        if path == preprocessor:
            return path, values
        if "image_processor" in values:
            inside = values["image_processor"]
            if not isinstance(inside, dict):
                got = f"a JSON {type(inside).__name__}"
                raise CheckpointError(f"{path} field image_processor", got=got, expected="a JSON object")
            return path, inside
    return None, {}


def _triple(value: float | Triple) -> Triple:
    return value if isinstance(value, tuple) else (value, value, value)


def _divided(values: Triple, scale: float) -> Triple:
    red, green, blue = values
    return red / scale, green / scale, blue / scale


def checkpoint_file(source: str, name: str) -> Path | None:
    """Where a file is, or None if the checkpoint has none of this name.

    Args:
        source: a folder, or a name on the hub. What exists on this machine is never looked for there.
        name: of the file.

    Raises:
        CheckpointError: there is no such checkpoint, or the hub cannot be reached.
    """
    return _found(source, name, required=False)


def required_file(source: str, name: str) -> Path:
    """As `checkpoint_file`; raises CheckpointError where there is none."""
    path = _found(source, name, required=True)
    if path is None:
        raise CheckpointError(source, got=f"no {name}", expected="a Hugging Face checkpoint")
    return path


def _found(source: str, name: str, *, required: bool) -> Path | None:
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.exists() or not NAME.fullmatch(source):
        got = "a file" if folder.exists() else "no such folder"
        expected = "a checkpoint's folder, or a name on the hub such as google/siglip2-so400m-patch16-256"
        raise CheckpointError(source, got=got, expected=expected)
    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=required)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        got = f"no such folder on this machine, and of the hub: {reason}"
        raise CheckpointError(source, got=got, expected="a Hugging Face checkpoint") from error
    return Path(found) if found else None
