"""Core ML packages, from programs of `torch.export`.

Core ML has no bytes at a graph's edge. Images are carried by whole float32 numbers, or with `inputs=image` by Core ML's
own RGB images; the session converts, and the manifest says how (`GraphSpec.carriers`).
"""

from __future__ import annotations

from typing import Literal

from vqrae.export.batch import Batch
from vqrae.export.formats.format import Format, FormatOptions, ImageEdge
from vqrae.export.job import ExportJob, Written
from vqrae.runtimes.errors import UsageError


class CoreMLOptions(FormatOptions):
    """Options of Core ML packages."""

    inputs: Literal["tensor", "image"] = "tensor"
    """`tensor`: images are arrays of whole numbers. `image`: they are Core ML images, for a batch fixed at 1."""
    target: Literal["ios17", "ios18"] = "ios17"
    """Least system that loads it; `ios17` means macOS 14 too, `ios18` macOS 15."""
    author: str = "exported by vqrae"
    """Shown by Xcode."""
    license: str = ""
    """Shown by Xcode: the license of the weights."""


class CoreML(Format):
    """One `<name>.mlpackage` folder for each graph."""

    runtime = "coreml"
    takes = "pt2"
    scheme = "symmetric"
    batches = ("dynamic", "fixed", "range", "enumerated")
    options = CoreMLOptions

    def check_request(self, options: FormatOptions, batch: Batch) -> None:
        """See `Format`."""
        if self._takes_images(options) and batch.axis != 1:
            got, expected = "inputs that are images", "a batch fixed at 1: Core ML has no batches of images"
            raise UsageError("batch of coreml", got=got, expected=expected, remedy="pass --batch 1")

    def images(self, options: FormatOptions) -> ImageEdge:
        """See `Format`."""
        return "float32 BCHW" if self._takes_images(options) else "float32 BHWC"

    def write(self, job: ExportJob) -> Written:
        """See `Format`."""
        from vqrae.export.formats.coreml.package import write_packages

        return write_packages(job, CoreMLOptions.model_validate(job.options))

    @staticmethod
    def _takes_images(options: FormatOptions) -> bool:
        return isinstance(options, CoreMLOptions) and options.inputs == "image"
