"""Bodies of `/encode` and `/decode`: the tokens of one image as JSON, and a PNG."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from vqrae.serving.json_body import parsed, whole_numbers
from vqrae.serving.models import Model
from vqrae.serving.refusal import Refusal


class _Tokens(BaseModel):
    """The rest of what `/encode` answers is passed over, so that its answer can be sent back as it is."""

    model_config = ConfigDict(strict=True, extra="ignore")

    indices: list[Any]


def read_tokens(body: bytes, decode: Model) -> NDArray[np.int32]:
    """One grid, int32 (1, h, w), from `{"indices": [[…], …]}`.

    Raises:
        Refusal: 400, with what is wrong.
    """
    array = whole_numbers("indices", parsed(_Tokens, body).indices)
    if array.shape != decode.input.row:
        raise Refusal(400, f"indices: got shape {array.shape}; expected {decode.input.row}")
    decode.check_values(array)
    return array.astype(np.int32)[None]


def png(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as a PNG file."""
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
