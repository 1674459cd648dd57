"""Core ML's reference semantics: runs a saved package operation by operation, on machines that Core ML is not for.

The program and its weights are read from the package's files, so what a converter got wrong is wrong here too. Every
value is rounded to the dtype that the program declares for it, so that FP16 costs here what it costs on a device.

Covered: operations that coremltools computes itself (`value_inference`), by its code; and those of `OWN`, which it
leaves out, or computes one number at a time. Products and sums of FP16 are taken in FP32 and rounded once.
Compressed weights are unpacked once, when a program is loaded.
Not covered: control flow, convolutions; these and anything unknown are refused by name. Nor is how a device sums, fuses
and reorders, whether it multiplies whole numbers where they are dequantized first, how fast it is, and which of its
units takes an operation.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.backends.coreml_spec import WEIGHTS_FOLDER, batch_limits
from vqrae.runtimes.backends.coreml_tools import TITLE, ct
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.session import failed_run, refused_graph

types = ct.converters.mil.mil.types
load_program = ct.converters.mil.frontend.milproto.load.load
programs = ct.converters.mil.mil.program

_LOADING = threading.Lock()
"""coremltools builds a program on a stack that all threads share. It also numbers dynamic axes through, and keeps a
type for every shape that it ever saw; counting from 0 again for each program lets them share these types."""

STORED = "constexpr_"
"""Begins the types of operations that unpack a constant."""
BLOCK = 2**16
"""Numbers that are rounded at once: few enough to stay in a processor's cache."""
ERF_STEPS = 8192
"""Points of the error function's table from 0 to 1, and so on up to 6; between them it is a line, 2e-9 off at most."""


class Evaluator:
    """A loaded program. Its variables hold the values of one run at a time; other threads wait."""

    def __init__(self, path: Path, spec: Any) -> None:
        """Load a package's program with its weights; `spec` is what `read_spec` read.

        Raises:
            BundleError: coremltools cannot load it.
        """
        try:
            with _LOADING:
                programs.k_used_symbols.clear()
                programs.k_num_internal_syms = 0
                program = load_program(spec, spec.specificationVersion, str(path / WEIGHTS_FOLDER))
        except Exception as error:  # its loader has no exceptions of its own, and a changed byte may lead to any
            raise refused_graph(path, TITLE, error) from error
        function = program.functions["main"]
        self._limits = batch_limits(spec)
        self._inputs: dict[str, Any] = dict(function.inputs)
        self._outputs: list[Any] = list(function.outputs)
        self._steps = _steps([op for op in function.operations if not _is_constant(op)], self._outputs)
        self._lock = threading.Lock()
        for operation in function.operations:
            _unwrap_flag(operation)
            if operation.op_type.startswith(STORED):
                _set(operation.outputs[0], operation.materialized_val_inference())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the outputs, one array each.

        Args:
            feeds: one array per input, of the dtype and shape that the program declares.

        Raises:
            RuntimeUnavailable: an operation is not covered, or fails; or the package takes no batch of this size.
        """
        size = len(next(iter(feeds.values())))
        if self._limits is not None and self._limits.fitting(size) != size:
            raise RuntimeUnavailable("coreml evaluator", got=f"a batch of {size}", expected=str(self._limits))
        with self._lock, np.errstate(all="ignore"):  # as on a device, overflow gives infinity and no warning
            try:
                for name, variable in self._inputs.items():
                    _set(variable, feeds[name])
                for operation, spent in self._steps:
                    for variable, value in zip(operation.outputs, _values(operation), strict=True):
                        _set(variable, value)
                    _clear(spent)
                return {variable.name: np.array(variable.val) for variable in self._outputs}
            finally:
                _clear(self._inputs.values())
                _clear(variable for operation, _ in self._steps for variable in operation.outputs)


def _is_constant(operation: Any) -> bool:
    return operation.op_type == "const" or operation.op_type.startswith(STORED)


def _steps(operations: list[Any], outputs: list[Any]) -> list[tuple[Any, list[Any]]]:
    """Each operation, with the variables that no later one needs."""
    last: dict[Any, int] = {}
    for number, operation in enumerate(operations):
        for variable in (*operation.get_flattened_inputs(), *operation.outputs):
            if variable is not None and (variable.op is None or not _is_constant(variable.op)):
                last[variable] = number
    for variable in outputs:
        last.pop(variable, None)
    spent: list[list[Any]] = [[] for _ in operations]
    for variable, number in last.items():
        spent[number].append(variable)
    return list(zip(operations, spent, strict=True))


def _unwrap_flag(operation: Any) -> None:
    """Make a constant flag Python's own: numpy takes none of its own for `keepdims`, where coremltools puts it."""
    variable = operation.outputs[0]
    if operation.op_type == "const" and isinstance(variable.val, np.bool):
        variable._sym_val.val = bool(variable.val)


def _values(operation: Any) -> tuple[Any, ...]:
    """What an operation gives for the values that its inputs have now.

    Raises:
        RuntimeUnavailable: it is not covered, or fails.
    """
    where = f"coreml evaluator at {operation.op_type} {operation.outputs[0].name}"
    try:
        values = None if operation.blocks else OWN.get(operation.op_type, _reference)(operation)
    except NotImplementedError:
        values = None
    except (IndexError, TypeError, ValueError) as error:
        raise failed_run(where, error) from error
    if values is None:
        remedy = "execute it on a Mac, or export to another format"
        raise RuntimeUnavailable(where, got="an operation that it does not cover", remedy=remedy)
    return tuple(values) if isinstance(values, list | tuple) else (values,)


def _reference(operation: Any) -> Any:
    return operation.value_inference()


def _set(variable: Any, value: Any) -> None:
    """Give a variable a value, rounded to its dtype; its type takes the value's shape, which some operations read."""
    dtype, array = np.dtype(types.nptype_from_builtin(variable.dtype)), np.asarray(value)
    array = _half(array) if dtype == np.float16 and array.dtype == np.float32 else array.astype(dtype, copy=False)
    is_tensor = types.is_tensor(variable.sym_type)
    if is_tensor:
        variable._sym_type = types.tensor(variable.dtype, array.shape)
    variable._sym_val = variable.sym_type()
    variable._sym_val.val = array if is_tensor else array[()]


def _clear(variables: Iterable[Any]) -> None:
    for variable in variables:
        variable._sym_val = None


def _cast(operation: Any) -> Any:
    """A cast to FP16 is done by the rounding of whatever is set."""
    return operation.x.val if operation.dtype.val == "fp16" else _reference(operation)


def _gelu(operation: Any) -> Any:
    x = _wide(operation.x.val)
    match operation.mode.val:
        case "EXACT":
            return 0.5 * x * (1 + _erf(x * np.float32(math.sqrt(0.5))))
        case "TANH_APPROXIMATION":
            return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + 0.044715 * x * x * x)))
        case _:
            return _reference(operation)


def _linear(operation: Any) -> Any:
    x, weight = operation.x.val, operation.weight.val
    if not x.dtype == weight.dtype == np.float16:
        return _reference(operation)
    return np.matmul(_wide(x), _wide(weight).T) + _wide(operation.bias.val)


def _matmul(operation: Any) -> Any:
    x, y = operation.x.val, operation.y.val
    if not x.dtype == y.dtype == np.float16:
        return _reference(operation)
    x = x.swapaxes(-1, -2) if operation.transpose_x.val else x
    return np.matmul(_wide(x), _wide(y.swapaxes(-1, -2) if operation.transpose_y.val else y))


def _silu(operation: Any) -> Any:
    x = _wide(operation.x.val)
    return x / (1 + np.exp(-x))


def _quantize(operation: Any) -> Any:
    if operation.zero_point is not None or operation.axis is not None:
        return _reference(operation)
    limits = np.iinfo(types.nptype_from_builtin(operation.outputs[0].dtype))
    return np.clip(np.rint(_wide(operation.input.val) / _wide(operation.scale.val)), limits.min, limits.max)


def _dequantize(operation: Any) -> Any:
    if operation.zero_point is not None or operation.axis is not None:
        return operation.materialized_val_inference()
    return operation.input.val.astype(np.float32) * _wide(operation.scale.val)


OWN: Mapping[str, Callable[[Any], Any]] = {
    "cast": _cast,
    "dequantize": _dequantize,
    "gelu": _gelu,
    "linear": _linear,
    "matmul": _matmul,
    "quantize": _quantize,
    "silu": _silu,
}
"""Operation type -> how it is computed here, where coremltools does not, or takes minutes."""


def _half(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """FP32 to FP16, to nearest even, bit by bit what numpy gives.

    numpy takes twenty times as long over a number that has to be rounded below 2⁻¹⁴, and attention is full of them. So
    they are rounded before: floats from ½ to 1 lie 2⁻²⁴ apart, as the smallest of FP16 do.
    """
    numbers, halves = x.reshape(-1), np.empty(x.size, np.float16)
    for start in range(0, x.size, BLOCK):
        block = numbers[start : start + BLOCK]
        size = np.abs(block)
        halves[start : start + BLOCK] = np.copysign(np.where(size < 2.0**-14, (size + 0.75) - 0.75, size), block)
    return halves.reshape(x.shape)


_FLOATS = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _wide(x: NDArray[Any]) -> NDArray[np.float32]:
    """FP16 to FP32, from a table of all; FP32 as it is."""
    return _FLOATS[np.ascontiguousarray(x).view(np.uint16)] if x.dtype == np.float16 else x


_ERF = np.array([math.erf(step / ERF_STEPS) for step in range(6 * ERF_STEPS + 1)])


def _erf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The error function, from a table."""
    position = np.minimum(np.abs(x) * np.float64(ERF_STEPS), 6 * ERF_STEPS - 1)
    below = position.astype(np.intp)
    value = _ERF[below] + (position - below) * (_ERF[below + 1] - _ERF[below])
    return np.copysign(value, x).astype(np.float32)
