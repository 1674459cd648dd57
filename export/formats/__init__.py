"""What a checkpoint can be exported to: the table of formats, and a request that was checked against it.

Light: a format's module is imported when it is named, and what its writer needs when it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.batch import DYNAMIC, Batch
from vqrae.export.formats.format import Format, FormatOptions
from vqrae.runtimes.errors import UsageError, unknown_name
from vqrae.runtimes.precision import PRECISIONS, Budget, PrecisionName, quantized_names

if TYPE_CHECKING:
    from vqrae.calibration.layers import Product

FORMATS: dict[str, str] = {
    "onnx": "vqrae.export.formats.onnx:Onnx",
    "openvino": "vqrae.export.formats.openvino:OpenVino",
    "coreml": "vqrae.export.formats.coreml:CoreML",
    "tensorrt": "vqrae.export.formats.tensorrt:TensorRT",
    "tensorrt-rtx": "vqrae.export.formats.tensorrt:TensorRTRTX",
}
"""Format's name -> `module:Class`."""

ALIASES = {"ort": "onnx", "ov": "openvino", "mlpackage": "coreml", "engine": "tensorrt", "trt": "tensorrt"}
"""What users of other exporters type."""
NO_OPTIONS = FormatOptions()


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
    """Where weights are whole numbers: the precision of every layer; None is the format's default."""
    budget: Budget | None = None
    """Of the same: what it may cost, where that is not what its gate allows."""

    @property
    def format(self) -> Format:
        """Its format."""
        return format_of(self.format_name)

    def chosen_plan(self, products: Sequence[Product]) -> PrecisionPlan:
        """Its own plan, or the default one of its format for a tokenizer with these products."""
        if self.plan is not None:
            return self.plan
        if PRECISIONS[self.precision].integer_products:
            return PrecisionPlan.default(products, also=self.format.int8_too)
        return PrecisionPlan.default(products, "float")


def format_key(name: str) -> str:
    """The key in `FORMATS` that a name or an alias stands for.

    Raises:
        UsageError: no such format; the nearest name is suggested.
    """
    key = ALIASES.get(name, name)
    if key not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return key


def format_of(key: str) -> Format:
    """The format of a key in `FORMATS`."""
    module, name = FORMATS[key].split(":")
    found: type[Format] = getattr(import_module(module), name)
    return found()


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
        precision: one that the format can express.
        batch: of a kind that the format has.
        options: names and values as typed on a command line.
        split: also write the parts.
        plan: where weights are whole numbers.
        budget: of the same.

    Raises:
        UsageError: no such format, precision or option (the nearest is suggested), or not for this format.
    """
    name = format_key(format_name)
    entry = format_of(name)
    if precision not in entry.precisions:
        raise unknown_name(f"precision of {name}", precision, entry.precisions)
    if batch.kind not in entry.batches:
        raise UsageError(f"batch of {name}", got=f"a batch that is {batch.kind}", expected=" or ".join(entry.batches))
    chosen = entry.options_from_text(name, options)
    entry.check_request(chosen, batch)
    wanted = Target(
        format_name=name, precision=precision, batch=batch, options=chosen, split=split, plan=plan, budget=budget
    )
    if PRECISIONS[precision].quantized:
        _check_quantized(wanted)
    elif plan is not None or budget is not None:
        expected = " or ".join(quantized_names())
        raise UsageError(f"precision of {name}", got=f"a plan or a budget for {precision}", expected=expected)
    return wanted


def _check_quantized(wanted: Target) -> None:
    """INT8 is made of the graphs that a plan is for: the wholes, and where they come from ONNX, with an open batch."""
    name, precision, plan = wanted.format_name, wanted.precision, wanted.plan
    if wanted.batch.axis != "batch" and wanted.format.takes == "onnx":
        raise UsageError(f"batch of {name} at {precision}", got=f"fixed at {wanted.batch.axis}", expected="dynamic")
    if wanted.split:
        raise UsageError(f"--split of {name} at {precision}", got="the parts", expected="the whole graphs only")
    activations = "int8" if PRECISIONS[precision].integer_products else "float"
    if plan is not None and plan.activations != activations:
        got, remedy = f"activations: {plan.activations}", "give a plan of that precision, or none"
        raise UsageError(
            f"plan of {name} at {precision}", got=got, expected=f"activations: {activations}", remedy=remedy
        )
