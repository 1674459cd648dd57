"""JSON that a client sent, judged: a model of pydantic's, and whole numbers in it."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from vqrae.serving.refusal import Refusal

Shape = TypeVar("Shape", bound=BaseModel)


def parsed(shape: type[Shape], text: bytes) -> Shape:
    """Read JSON of a certain shape.

    Raises:
        Refusal: 400, with the first place that is wrong; what stands there is not repeated.
    """
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step)[:80] for step in detail["loc"]) or "request"
        raise Refusal(400, f"{place}: {detail['msg']}") from error


def whole_numbers(subject: str, data: list[Any]) -> NDArray[Any]:
    """Nested lists as an array of integers.

    Raises:
        Refusal: 400, rows of different lengths, or something else than numbers that fit 64 bits.
    """
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise Refusal(400, f"{subject}: got rows of different lengths; expected whole numbers") from error
    if array.dtype.kind not in "iu" or not array.size:
        got = f"data of dtype {array.dtype}" if array.size else "no data"
        raise Refusal(400, f"{subject}: got {got}; expected whole numbers")
    return array
