"""Which column of a dataset holds the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Image as ImageFeature
from datasets import Value

from vqrae.runtimes.errors import DataError

PREFERRED = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Names that decide where several columns hold images, in this order."""


def image_column(source: str, features: Mapping[str, Any] | None) -> str:
    """The column of encoded images: of the feature `Image`, of bytes, or of a struct with a field `bytes`.

    Raises:
        DataError: there is none, or there are several and none has one of the `PREFERRED` names.
    """
    columns = dict(features or {})
    found = [name for name, feature in columns.items() if _holds_images(feature)]
    named = [name for name in PREFERRED if name in found]
    if named or len(found) == 1:
        return (named or found)[0]
    expected = "one column of encoded images (bytes, or a struct with a field `bytes`)"
    remedy = f"name it one of {', '.join(PREFERRED)}" if found else None
    got = f"the columns {', '.join(found or columns) or '(none)'}"
    raise DataError(source, got=got, expected=expected, remedy=remedy)


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, dict):
        return _holds_images(feature.get("bytes"))
    binary = isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
    return binary or isinstance(feature, ImageFeature)
