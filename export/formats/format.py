"""What a format is: its options, what it takes, its checks, and its writer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from difflib import get_close_matches
from typing import ClassVar, Literal

from pydantic import ConfigDict, ValidationError

from vqrae.calibration.plan import Scheme
from vqrae.export.batch import Batch, BatchKind
from vqrae.export.job import ExportJob, Written
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.precision import PRECISIONS, NumberType, PrecisionName

ImageEdge = Literal["uint8 BHWC", "float32 BHWC", "float32 BCHW"]
"""What images are at a graph's edges: dtype and layout."""
INSIDE = "inside"
"""What a program calls the graph that it lays out images for; `graph` is what programs call their own."""


class FormatOptions(Record):
    """Base of the options of one format; a format without options of its own uses it as it is."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Format(ABC):
    """One thing to export to. Light: what its writer needs is imported when it writes."""

    runtime: ClassVar[str]
    """The runtime that executes it."""
    takes: ClassVar[Literal["onnx", "pt2"]]
    """What it is made from: ONNX graphs, or programs of `torch.export`."""
    scheme: ClassVar[Scheme]
    """The INT8 that its runtime takes."""
    numbers: ClassVar[frozenset[NumberType]] = frozenset({"fp32", "fp16", "int8"})
    """What its writer can store and multiply."""
    batches: ClassVar[tuple[BatchKind, ...]]
    """The kinds of batch axis that it can have."""
    options: ClassVar[type[FormatOptions]] = FormatOptions
    int8_too: ClassVar[tuple[str, ...]] = ()
    """Of what stays float by default (`calibration.plan.FLOAT_BY_DEFAULT`), the kinds that this runtime gains by."""

    @property
    def precisions(self) -> tuple[PrecisionName, ...]:
        """Those of the table that it can express."""
        return tuple(name for name, kind in PRECISIONS.items() if {kind.weights, kind.activations} <= self.numbers)

    def check_request(self, options: FormatOptions, batch: Batch) -> None:  # noqa: B027 - most refuse nothing
        """Refuse what does not go together, before anything heavy is imported.

        Args:
            options: an instance of `options`.
            batch: of a kind that the format has.

        Raises:
            UsageError: names it.
        """

    def check_machine(self, options: FormatOptions, precision: PrecisionName) -> None:  # noqa: B027 - most need nothing
        """Look for what only the last steps of an export need, before any heavy work.

        Raises:
            RuntimeUnavailable: it is not here.
            UsageError: what is installed does not know an option's value.
        """

    def images(self, options: FormatOptions) -> ImageEdge:
        """What images have to be at the edges of the graphs that it takes."""
        return "uint8 BHWC"

    @abstractmethod
    def write(self, job: ExportJob) -> Written:
        """Write the artifacts into `job.folder`; of the job alone, so that it may do so in another environment.

        Raises:
            RuntimeUnavailable: the format cannot express the model: names the node and the model's layer; or what was
                built is not of the precision that was asked for.
        """

    def options_from_text(self, name: str, values: Mapping[str, str]) -> FormatOptions:
        """Its options from names and values as they are typed on a command line.

        Args:
            name: of the format, for errors.
            values: `inputs` -> `image`; of several values, comma-separated.

        Raises:
            UsageError: no such option (the nearest is suggested), or no such value.
        """
        fields = self.options.model_fields
        parsed: dict[str, object] = {}
        for typed, value in values.items():
            field = typed.replace("-", "_")
            if field not in fields:
                raise _unknown_option(name, typed, [known.replace("_", "-") for known in fields])
            several = isinstance(fields[field].get_default(), tuple)
            parsed[field] = tuple(value.split(",")) if several else value
        try:
            return self.options.model_validate(parsed)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            typed = str(first["loc"][0]).replace("_", "-")
            expected = first["msg"].removeprefix("Input should be ")
            raise UsageError(f"option {typed} of {name}", got=repr(first["input"]), expected=expected) from error


def _unknown_option(name: str, typed: str, known: list[str]) -> UsageError:
    near = get_close_matches(typed, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else None
    expected = f"one of {', '.join(known)}" if known else "none: it has no options of its own"
    return UsageError(f"option of {name}", got=repr(typed), expected=expected, remedy=remedy)
