"""What a Core ML package says of itself, without its weights, in the words of the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from vqrae.runtimes.backends.coreml_tools import TITLE, ct
from vqrae.runtimes.errors import BundleError
from vqrae.runtimes.json_text import read_object
from vqrae.runtimes.manifest import BatchLimits, GraphSpec
from vqrae.runtimes.session import check_edges, refused_graph

SPEC_FILE = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS_FOLDER = "Data/com.apple.CoreML/weights"
ITEMS_FILE, _DATA = "Manifest.json", "Data/"
PRODUCTS = {"linear": "weight", "matmul": "y"}
"""All matrix products that the deployed graphs have, whose precision is the graph's -> their second input."""
_RGB = 20


def read_spec(path: Path) -> Any:
    """The specification of a package, a `Model` message: signature, metadata, and the program but for its weights.

    Raises:
        BundleError: there is none, or it is not of one ML program.
    """
    _check_items(path)
    spec = ct.proto.Model_pb2.Model()
    try:
        spec.ParseFromString((path / SPEC_FILE).read_bytes())
    except (OSError, DecodeError) as error:
        raise refused_graph(path, TITLE, error) from error
    if spec.WhichOneof("Type") != "mlProgram" or list(spec.mlProgram.functions) != ["main"]:
        got, expected = "another kind of model", "an ML program with the function `main`"
        raise BundleError(str(path), got=got, expected=expected, remedy="export it again")
    return spec


def _check_items(path: Path) -> None:
    """See that the package's own list names the files that are read here: Core ML would follow it elsewhere.

    Raises:
        BundleError: it does not, or is no such list.
    """
    listed, remedy = path / ITEMS_FILE, "export it again"
    values = read_object(listed, BundleError, "a package's list of items")
    entries, root = values.get("itemInfoEntries"), values.get("rootModelIdentifier")
    if not isinstance(entries, dict) or not isinstance(root, str) or root not in entries:
        raise BundleError(str(listed), got="no root model", expected="a package's list of items", remedy=remedy)
    places = {name: entry.get("path") if isinstance(entry, dict) else None for name, entry in entries.items()}
    known = {SPEC_FILE.removeprefix(_DATA), WEIGHTS_FOLDER.removeprefix(_DATA)}
    strange = [place for place in places.values() if place not in known]
    if places[root] != SPEC_FILE.removeprefix(_DATA) or strange:
        got = f"an item at {(strange or [places[root]])[0]!r:.80}"
        raise BundleError(str(listed), got=got, expected=f"the model at {SPEC_FILE}, and its weights", remedy=remedy)


def check_spec(path: Path, spec: Any, graph: GraphSpec) -> None:
    """Compare what a package takes and gives with the manifest.

    Raises:
        BundleError: they differ, or what the package says makes no sense.
    """
    try:
        inputs, outputs = (_described(spec, part, graph) for part in (spec.description.input, spec.description.output))
        found, wanted = batch_limits(spec), graph.batch_limits
    except (IndexError, KeyError, ValueError) as error:
        raise refused_graph(path, TITLE, error) from error
    check_edges(path, "inputs", inputs, graph.inputs)
    check_edges(path, "outputs", outputs, graph.outputs)
    if wanted is not None and (found is None or str(found) != str(wanted)):
        expected = f"{wanted}, as the manifest says"
        raise BundleError(f"{path} batch", got=str(found), expected=expected, remedy="export it again")


def batch_limits(spec: Any) -> BatchLimits | None:
    """What the first axis of a package's input takes; None where it is fixed."""
    array = spec.description.input[0].type.multiArrayType
    if array.WhichOneof("ShapeFlexibility") == "enumeratedShapes":
        sizes = sorted({shape.shape[0] for shape in array.enumeratedShapes.shapes})
        return BatchLimits(least=sizes[0], most=sizes[-1], only=tuple(sizes))
    if array.WhichOneof("ShapeFlexibility") == "shapeRange":
        axis = array.shapeRange.sizeRanges[0]
        return BatchLimits(least=axis.lowerBound, best=array.shape[0], most=axis.upperBound)
    return None


def operations(spec: Any) -> Iterator[Any]:
    """The `Operation` messages of a package's program, constants included, in order."""
    function = spec.mlProgram.functions["main"]
    yield from function.block_specializations[function.opset].operations


def operands(operation: Any) -> set[str]:
    """Names of the values that an operation takes."""
    return {argument.name for bound in operation.inputs.values() for argument in bound.arguments}


def dtype_name(tensor: Any) -> str:
    """The dtype of a `TensorType` message, as `float32`."""
    return str(ct.proto.MIL_pb2.DataType.Name(tensor.dataType)).lower()


class BuiltProduct(NamedTuple):
    """One matrix product of a program."""

    name: str
    dtype: str
    """That it is computed in, as the program says."""
    from_int8: tuple[bool, bool]
    """Whether its first and its second input come from int8; a device then may multiply the int8."""

    def __str__(self) -> str:
        match self.from_int8:
            case (True, True):
                return "int8"
            case (False, True):
                return f"{self.dtype} with int8 weights"
            case _:
                return self.dtype


def matrix_products(spec: Any) -> list[BuiltProduct]:
    """A program's matrix products, in the order that they run in."""
    whole: set[str] = set()
    """Names of int8 values, and of the floats that these become."""
    products = []
    for operation in operations(spec):
        output = operation.outputs[0]
        dtype = dtype_name(output.type.tensorType)
        if operation.type in PRODUCTS:
            first, second = (
                operation.inputs[name].arguments[0].name in whole for name in ("x", PRODUCTS[operation.type])
            )
            products.append(BuiltProduct(output.name, dtype, (first, second)))
        elif dtype == "int8" or (operation.type == "dequantize" and operands(operation) & whole) or _stored(operation):
            whole.add(output.name)
    return products


def _stored(operation: Any) -> bool:
    """Whether it is a constant that a package stores in int8."""
    if operation.type != "constexpr_affine_dequantize":
        return False
    return dtype_name(operation.attributes["quantized_data"].type.tensorType) == "int8"


def product_precisions(spec: Any) -> str:
    """In which precisions matrix products are computed, such as `float16 ×20, float32 ×1`, as the program says."""
    counts = Counter(map(str, matrix_products(spec)))
    return ", ".join(f"{dtype} ×{count}" for dtype, count in sorted(counts.items())) or "no matrix products"


def _described(spec: Any, features: Iterable[Any], graph: GraphSpec) -> list[str]:
    """In the words of `TensorSpec`; where a tensor is carried as the manifest says, it is named as what it carries."""
    types = {value.name: value.type.tensorType for value in spec.mlProgram.functions["main"].inputs}
    types |= {value.name: value.type.tensorType for op in operations(spec) for value in op.outputs}
    dtypes = {tensor.name: tensor.dtype for tensor in (*graph.inputs, *graph.outputs)}
    texts = []
    for feature in features:
        name, tensor = feature.name, types[feature.name]
        axes = [str(axis.constant.size) if axis.HasField("constant") else "batch" for axis in tensor.dimensions]
        carrier = dtype_name(tensor)
        if feature.type.imageType.colorSpace == _RGB:
            carrier, axes = "image", [axes[0], *axes[2:], axes[1]]  # (B, 3, H, W) in the program
        dtype = dtypes.get(name) if graph.carriers.get(name) == carrier else carrier
        texts.append(f"{name} {dtype} ({', '.join(axes)})")
    return texts
