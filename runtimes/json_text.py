"""JSON from files that somebody else may have written: strict, in linear time, and refused by field.

The standard library's reader takes what the specification does not, and pydantic's likewise: `NaN`, numbers that no
computer holds, a name twice in one object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from vqrae.runtimes.errors import InvalidInput

MOST_BYTES = 2**26
"""Of a file of ours, but for a bundle's manifest, which has a lower limit."""
Model = TypeVar("Model", bound=BaseModel)


class Record(BaseModel):
    """Base of all records: immutable, no unknown fields, no infinite or missing numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse_json(text: bytes | str) -> Any:
    """The value of a text.

    Raises:
        ValueError: not UTF-8, no JSON, nested too deep, a number that is none, or a name twice; says which.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repetitions,
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_text(path: Path, most: int = MOST_BYTES) -> bytes:
    """A file's bytes, of which there may be `most`.

    Raises:
        ValueError: there are more.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return limited(file, most)


def limited(file: IO[bytes], most: int) -> bytes:
    """What is left of an open file, of which there may be `most` bytes; raises ValueError."""
    text = file.read(most + 1)
    if len(text) > most:
        raise ValueError(f"more than {most} bytes")
    return text


def read_object(path: Path, error: type[InvalidInput], expected: str) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        InvalidInput: `error`, where it cannot be read or holds something else.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as problem:
        got = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise error(str(path), got=got, expected=expected) from problem
    try:
        values = parse_json(text)
    except ValueError as problem:
        raise error(str(path), got=f"invalid JSON ({problem})", expected=expected) from problem
    if not isinstance(values, dict):
        raise error(str(path), got=f"a JSON {type(values).__name__}", expected=expected)
    return values


def read_model(path: Path, shape: type[Model], error: type[InvalidInput], expected: str) -> Model:
    """A file that holds a record.

    Raises:
        InvalidInput: `error`, where it cannot be read, or a field is wrong; names it.
    """
    return validated(str(path), read_object(path, error, expected), shape, error)


def validated(name: str, values: Mapping[str, Any], shape: type[Model], error: type[InvalidInput]) -> Model:
    """A record of parsed JSON; `name` is what errors call it.

    Raises:
        InvalidInput: `error`, names the first field that is wrong.
    """
    try:
        return shape.model_validate_json(json.dumps(values))  # as JSON: a tuple is a list there, and "3" no number
    except ValidationError as problem:
        subject, got, wanted = told(name, problem)
        raise error(subject, got=got, expected=wanted) from problem


def told(name: str, problem: ValidationError) -> tuple[str, str, str]:
    """The subject, what was got, and what was expected, of the first field that is wrong in a configuration."""
    detail = problem.errors(include_url=False)[0]
    subject, got, expected = first_problem(name, detail)
    if detail["type"] == "value_error":  # of a validator of ours, which says what it got
        return subject, expected, "a valid value"
    return subject, got, expected


def first_problem(name: str, detail: ErrorDetails) -> tuple[str, str, str]:
    """The subject, what was got, and what was expected, of one of pydantic's errors."""
    field = ".".join(map(str, detail["loc"]))
    subject = f"{name} field {field}" if field else name
    if detail["type"] == "missing":
        return subject, "no such field", "a value"
    if detail["type"] == "extra_forbidden":
        return subject, "an unknown field", "a field of this format"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = f"{detail['input']!r:.80}" if not isinstance(detail["input"], dict) else "other values"
    return subject, got, message


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:80]} is no number that a computer holds")
    return value


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name twice in one object means one thing to one reader and another to the next."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name[:80]!r} is there twice")
        values[name] = value
    return values
