"""How a checkpoint's pixels are normalized: what its image processor's file says, in transformers 4's and 5's layout.

Read whole, or refused by field. What is not read (sizes, crops, resampling) is the toolkit's own rule's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from vqrae.runtimes.errors import CheckpointError
from vqrae.runtimes.json_text import read_object, validated

PROCESSOR_FILE, PREPROCESSOR_FILE = "processor_config.json", "preprocessor_config.json"
"""Of transformers 5, with the image processor inside, which comes first; of transformers 4."""
Triple = tuple[float, float, float]

_Number = Annotated[float, Field(ge=-1e6, le=1e6)]
_Positive = Annotated[float, Field(ge=1e-9, le=1e6)]


class _ImageProcessor(BaseModel):
    """The fields that say what becomes of a pixel's value."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    do_rescale: bool | None = None
    rescale_factor: _Positive | None = None
    do_normalize: bool | None = None
    image_mean: _Number | tuple[_Number, _Number, _Number] | None = None
    image_std: _Positive | tuple[_Positive, _Positive, _Positive] | None = None


def normalization(
    processor: Path | None, preprocessor: Path | None, default: tuple[Triple, Triple]
) -> tuple[Triple, Triple]:
    """Mean and standard deviation for pixels in [0, 1].

    Args:
        processor: `processor_config.json`, if there is one; it counts where it holds an image processor.
        preprocessor: `preprocessor_config.json`, if there is one.
        default: what the family's processor has where the file says nothing.

    Raises:
        CheckpointError: a file cannot be read, or a field is of another kind or out of bounds.
    """
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
