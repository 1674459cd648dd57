"""What a checkpoint can be exported to, and the options that each format has. Light: nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from vqrae.calibration.plan import Activations, PrecisionPlan
from vqrae.config import StrictConfig
from vqrae.runtimes.errors import UsageError, unknown_name
from vqrae.runtimes.manifest import BatchLimits, Budget
from vqrae.runtimes.precision import PRECISIONS, NumberType, PrecisionName, quantized_names

if TYPE_CHECKING:
    from vqrae.calibration.layers import Product

BatchKind = Literal["dynamic", "fixed", "range", "enumerated"]


MOST_BATCH = 2**16
"""More images than that are never computed at once."""


class Batch(StrictConfig):
    """The batch axis: `dynamic`, fixed `4`, a range `1:8:32` (least, best, most), or enumerated `1,2,4`."""

    kind: BatchKind = "dynamic"
    sizes: tuple[Annotated[int, Field(ge=1, le=MOST_BATCH)], ...] = ()

    @model_validator(mode="after")
    def _ascending(self) -> Batch:
        repeated = self.kind == "enumerated" and len({*self.sizes}) < len(self.sizes)
        if repeated or list(self.sizes) != sorted(self.sizes):
            raise ValueError("ascending sizes")
        return self

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read one of the forms above.

        Raises:
            UsageError: none of them.
        """
        kinds: tuple[tuple[str, BatchKind], ...] = (
            (r"dynamic", "dynamic"),
            (r"\d+", "fixed"),
            (r"\d+:\d+:\d+", "range"),
            (r"\d+(,\d+)+", "enumerated"),
        )
        for pattern, kind in kinds:
            if re.fullmatch(pattern, text):
                try:
                    return cls(kind=kind, sizes=tuple(map(int, re.findall(r"\d+", text))))
                except ValueError:  # pydantic's, or a number too long to be read
                    break
        expected = f"dynamic, a number up to {MOST_BATCH}, LEAST:BEST:MOST, or SIZE,SIZE,… in ascending order"
        raise UsageError("batch", got=repr(text), expected=expected)

    @property
    def axis(self) -> int | str:
        """The axis in a signature: a fixed size, or `batch`."""
        return self.sizes[0] if self.kind == "fixed" else "batch"

    def limits(self, default: BatchLimits | None = None) -> BatchLimits | None:
        """What the axis takes, for the manifest; `default` is the format's own meaning of `dynamic`."""
        match self.kind:
            case "range":
                least, best, most = self.sizes
                return BatchLimits(least=least, best=best, most=most)
            case "enumerated":
                return BatchLimits(least=self.sizes[0], most=self.sizes[-1], only=self.sizes)
            case "dynamic":
                return default
            case _:
                return None


DYNAMIC = Batch()


class FormatOptions(StrictConfig):
    """Base of the options of one format; a format without options of its own uses it as it is."""

    model_config = ConfigDict(use_attribute_docstrings=True)


NO_OPTIONS = FormatOptions()


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


class EngineOptions(FormatOptions):
    """Options that TensorRT and TensorRT-RTX share."""

    workspace_mb: PositiveInt | None = None
    """Most scratch memory that an engine may use, in MiB; the library's own limit if not given."""
    include_onnx: bool = True
    """Keep the ONNX graphs in the bundle, so that the engine can be rebuilt where it does not fit."""


class TensorRTOptions(EngineOptions):
    """Options of TensorRT engines."""

    version_compatible: bool = False
    """Load under later versions of the same major, somewhat slower."""
    hardware_compatible: Literal["none", "ampere-plus", "same-compute-capability"] = "none"
    """Load on other GPUs than the one it was built on, somewhat slower."""
    timing_cache: Path | None = None
    """File of measured kernels, read if it exists and written anew: a second build takes a fraction of the time."""


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


ComputeCapability = Literal["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]
"""Those that TensorRT-RTX 1.7 compiles for; the builder asks the installed version once more."""


class TensorRTRTXOptions(EngineOptions):
    """Options of TensorRT-RTX engines."""

    compute_capabilities: Annotated[tuple[ComputeCapability, ...], AfterValidator(_each_once)] = (
        "8.0",
        "8.6",
        "8.9",
        "12.0",
    )
    """GPUs to compile for, comma-separated: 7.5, 8.0, 8.6, 8.9, 12.0, 12.1."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One thing to export to."""

    runtime: str
    """The runtime that executes it."""
    batches: tuple[BatchKind, ...]
    """The kinds of batch axis that it can have."""
    writer: str
    """`module:function` of its `bundle_graphs.GraphWriter`."""
    options: type[FormatOptions] = FormatOptions
    int8_too: tuple[str, ...] = ()
    """Of what stays float by default (`calibration.plan.FLOAT_BY_DEFAULT`), the kinds that this runtime gains by."""
    numbers: frozenset[NumberType] = frozenset({"fp32", "fp16", "int8"})
    """What its writer can store and multiply."""

    @property
    def precisions(self) -> tuple[PrecisionName, ...]:
        """Those of the table that it can express."""
        return tuple(name for name, kind in PRECISIONS.items() if {kind.weights, kind.activations} <= self.numbers)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            runtime="onnxruntime",
            batches=("dynamic", "fixed"),
            writer="vqrae.export.onnx_writer:write_onnx",
        ),
        "openvino": Format(
            runtime="openvino",
            batches=("dynamic", "fixed"),
            writer="vqrae.export.openvino_ir:write_openvino",
            int8_too=("queries_keys",),  # attention is one INT8 kernel then
        ),
        "coreml": Format(
            runtime="coreml",
            batches=("dynamic", "fixed", "range", "enumerated"),
            writer="vqrae.export.coreml_package:write_coreml",
            options=CoreMLOptions,
        ),
        "tensorrt": Format(
            runtime="tensorrt",
            batches=("dynamic", "fixed", "range"),
            writer="vqrae.export.tensorrt_engine:write_tensorrt",
            options=TensorRTOptions,
        ),
        "tensorrt-rtx": Format(
            runtime="tensorrt-rtx",
            batches=("dynamic", "fixed", "range"),
            writer="vqrae.export.tensorrt_engine:write_tensorrt_rtx",
            options=TensorRTRTXOptions,
        ),
    }
)
"""Format name -> how it is made; modules are imported when they are needed."""

ALIASES = {"ort": "onnx", "ov": "openvino", "mlpackage": "coreml", "engine": "tensorrt", "trt": "tensorrt"}
"""What users of other exporters type."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One bundle to build; make one with `target`."""

    format_name: str
    precision: PrecisionName
    batch: Batch = DYNAMIC
    options: FormatOptions = NO_OPTIONS
    split: bool = False
    """Also write encoder, quantizer, codebook and decoder."""
    plan: PrecisionPlan | None = None
    """Of INT8, products or weights: the precision of every layer; None is the format's default."""
    budget: Budget | None = None
    """Of the same: what it may cost, where that is not what its gate allows."""

    @property
    def format(self) -> Format:
        """Its entry in the table."""
        return FORMATS[self.format_name]

    def chosen_plan(self, products: Sequence[Product], activations: Activations = "int8") -> PrecisionPlan:
        """Its own plan, or the default one of its format for a tokenizer with these products."""
        also = self.format.int8_too if activations == "int8" else ()
        return self.plan or PrecisionPlan.default(products, activations, also=also)


def format_key(name: str) -> str:
    """The key in `FORMATS` that a name or an alias stands for.

    Raises:
        UsageError: no such format; the nearest name is suggested.
    """
    key = ALIASES.get(name, name)
    if key not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return key


def target(
    format_name: str,
    precision: str = "fp32",
    *,
    batch: Batch = DYNAMIC,
    options: Mapping[str, str] = MappingProxyType({}),
    split: bool = False,
    plan: PrecisionPlan | None = None,
    budget: Budget | None = None,
) -> Target:
    """Check a request by the tables alone, before anything heavy is imported.

    Args:
        format_name: a key of `FORMATS` or `ALIASES`.
        precision: one that the format has.
        batch: of a kind that the format has.
        options: names and values as typed on a command line.
        split: also write the parts.
        plan: of INT8.
        budget: of INT8.

    Raises:
        UsageError: no such format, precision or option (the nearest is suggested), or not for this format.
    """
    name = format_key(format_name)
    entry = FORMATS[name]
    known = [candidate for candidate in entry.precisions if candidate == precision]
    if not known:
        raise unknown_name(f"precision of {name}", precision, entry.precisions)
    if batch.kind not in entry.batches:
        raise UsageError(f"batch of {name}", got=f"a batch that is {batch.kind}", expected=" or ".join(entry.batches))
    checked = _options(name, entry, options)
    if isinstance(checked, CoreMLOptions) and checked.inputs == "image" and batch.axis != 1:
        expected = "a batch fixed at 1: Core ML has no batches of images"
        raise UsageError(f"batch of {name}", got="inputs that are images", expected=expected, remedy="pass --batch 1")
    if PRECISIONS[known[0]].quantized:
        _check_quantized(name, known[0], batch, split=split, plan=plan)
    elif plan is not None or budget is not None:
        got, expected = f"a plan or a budget for {precision}", " or ".join(quantized_names())
        raise UsageError(f"precision of {name}", got=got, expected=expected)
    return Target(
        format_name=name,
        precision=known[0],
        batch=batch,
        options=checked,
        split=split,
        plan=plan,
        budget=budget,
    )


def _check_quantized(
    name: str, precision: PrecisionName, batch: Batch, *, split: bool, plan: PrecisionPlan | None
) -> None:
    """INT8 is made of the graphs that a plan is for: the wholes, and where they come from ONNX, with an open batch."""
    if batch.axis != "batch" and name != "coreml":
        raise UsageError(f"batch of {name} at {precision}", got=f"fixed at {batch.axis}", expected="dynamic")
    if split:
        raise UsageError(f"--split of {name} at {precision}", got="the parts", expected="the whole graphs only")
    wanted = "int8" if PRECISIONS[precision].integer_products else "float"
    if plan is not None and plan.activations != wanted:
        got, remedy = f"activations: {plan.activations}", "give a plan of that precision, or none"
        raise UsageError(f"plan of {name} at {precision}", got=got, expected=f"activations: {wanted}", remedy=remedy)


def _options(name: str, entry: Format, values: Mapping[str, str]) -> FormatOptions:
    fields = entry.options.model_fields
    parsed: dict[str, object] = {}
    for typed, value in values.items():
        field = typed.replace("-", "_")
        if field not in fields:
            known = [known.replace("_", "-") for known in fields]
            near = get_close_matches(typed, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else None
            expected = f"one of {', '.join(known)}" if known else "none: it has no options of its own"
            raise UsageError(f"option of {name}", got=repr(typed), expected=expected, remedy=remedy)
        several = isinstance(fields[field].get_default(), tuple)
        parsed[field] = tuple(value.split(",")) if several else value
    try:
        return entry.options.model_validate(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        typed = str(first["loc"][0]).replace("_", "-")
        expected = first["msg"].removeprefix("Input should be ")
        raise UsageError(f"option {typed} of {name}", got=repr(first["input"]), expected=expected) from error
