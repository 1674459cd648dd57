"""The hash of what a part is made of: every image's key and bytes, or why there are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vqrae.images.parts import Part
from vqrae.images.reading import EncodedImage, encoded_images


class SourceDigest:
    """Of the images so far."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, encoded: EncodedImage) -> str:
        """Add the next image; returns the hash of its bytes."""
        image = hashlib.sha256(encoded.content or b"").hexdigest()
        what = f"{encoded.key}\0{image if encoded.content is not None else encoded.problem}\n"
        self._digest.update(what.encode(errors="surrogatepass"))
        return image

    @property
    def hexdigest(self) -> str:
        """The hash."""
        return self._digest.hexdigest()


def source_sha256(root: Path, part: Part) -> str:
    """The hash of a whole part."""
    digest = SourceDigest()
    for encoded in encoded_images(root, part):
        digest.add(encoded)
    return digest.hexdigest
