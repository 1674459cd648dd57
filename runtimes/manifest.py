"""The contract: what `manifest.json` says about a bundle. The reader owns the format; the writers import it.

1. A manifest MUST be UTF-8 JSON of at most `MAX_MANIFEST_BYTES`, without a name twice in one object, and its `format`
   MUST be `vqrae-bundle`.
2. A reader MUST refuse another major `format_version`. It MUST refuse unknown fields, unless the manifest's minor
   version is newer than its own: then it MUST ignore them.
3. Every path MUST be relative, in POSIX form, and MUST NOT leave the bundle's folder.
4. `files` MUST list every file of the bundle but `manifest.json`, once each, with its size and SHA-256.
5. Of the graphs `encode` and `decode`, those that the bundle has MUST have the signatures that `signature` gives.
6. No file of a bundle may need code to be executed to read it: no pickle. The one exception, an engine whose ties allow
   any newer version, brings code; a reader MUST NOT load it unless it was told that the bundle's origin is trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from vqrae.runtimes.errors import BundleError
from vqrae.runtimes.evidence import Evidence
from vqrae.runtimes.json_text import Record, first_problem, limited, parse_json
from vqrae.runtimes.precision import Precision

FORMAT_NAME: Literal["vqrae-bundle"] = "vqrae-bundle"
FORMAT_VERSION = "1.3"
"""What is read here: all of major version 1, up to this."""
WHOLE_VERSION = "1.2"
"""What is written of a bundle with both graphs, features, and one code a token, so that older readers take it."""
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 2**20
"""A larger manifest is refused before it is parsed."""

_AGAIN = "export it again"
MAX_PATH, MAX_DEPTH = 255, 16
"""Characters of a path in a bundle, and names in it."""


def _inside_the_bundle(value: str) -> str:
    path = PurePosixPath(value)
    if len(path.parts) > MAX_DEPTH:
        raise ValueError(f"a path of at most {MAX_DEPTH} names")
    leaves = path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(value).drive) or "\\" in value
    if leaves or str(path) != value or value == "." or not value.isprintable():
        raise ValueError("a relative path inside the bundle, with forward slashes")
    return value


def _by_key(values: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(values.items()))


BundlePath = Annotated[str, Field(max_length=MAX_PATH), AfterValidator(_inside_the_bundle)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Versions = Annotated[dict[str, str], AfterValidator(_by_key)]
Side = Annotated[int, Field(gt=0, le=2**14)]


class TensorSpec(Record):
    """One input or output of a graph; an axis is a size, or the name of a dynamic axis such as `batch`."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[PositiveInt | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


class BatchLimits(Record):
    """The sizes that a dynamic batch axis takes: all from `least` to `most`, or of these the ones in `only`."""

    least: PositiveInt = 1
    best: PositiveInt | None = None
    """The size that the artifact was tuned for, where it was tuned for one."""
    most: PositiveInt
    only: tuple[PositiveInt, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.least <= (self.best or self.least) <= self.most:
            raise ValueError("least <= best <= most")
        if self.only and (list(self.only) != sorted(set(self.only)) or (self.only[0], self.only[-1]) != self._ends):
            raise ValueError("ascending sizes in `only`, from `least` to `most`")
        return self

    @property
    def _ends(self) -> tuple[int, int]:
        return self.least, self.most

    def fitting(self, count: int) -> int | None:
        """The smallest size that holds `count` images; None if there is none."""
        return next((size for size in self.only or (max(count, self.least),) if count <= size <= self.most), None)

    def __str__(self) -> str:
        return ", ".join(map(str, self.only)) if self.only else f"{self.least} to {self.most}"


class GraphSpec(Record):
    """One graph: its file, the files that it reads besides, and its signature."""

    file: BundlePath
    """A file, or the folder of an artifact that is a folder (a Core ML package)."""
    extra_files: tuple[BundlePath, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    carriers: Annotated[dict[str, Literal["float32", "int32", "image"]], AfterValidator(_by_key)] = {}  # noqa: RUF012 - pydantic copies it
    """Tensor -> what carries it in the artifact, where the runtime has no such dtype at a graph's edge: Core ML takes
    bytes as whole float32 numbers, or as an image. A session converts; a client without vqrae has to."""
    batch_limits: BatchLimits | None = None
    """What a dynamic batch axis takes; None where it takes any size, or is fixed."""
    source: BundlePath | None = None
    """The ONNX graph that the artifact was built from, where the bundle holds it."""
    source_extra_files: tuple[BundlePath, ...] = ()
    """The files that the source reads besides: the weights of a graph beyond 2 GB."""
    layers: BundlePath | None = None
    """What the builder says of each layer, as JSON, where it says something."""

    @property
    def fixed_batch(self) -> int | None:
        """The batch size, where it is fixed."""
        axis = self.inputs[0].shape[0]
        return axis if isinstance(axis, int) else None

    def fitting_batch(self, count: int) -> int:
        """The smallest batch size that it takes and that holds `count` images.

        Raises:
            ValueError: there is none.
        """
        limits = BatchLimits(least=size, most=size) if (size := self.fixed_batch) else self.batch_limits
        fitting = count if limits is None else limits.fitting(count)
        if fitting is None:
            raise ValueError(f"{count} images in a graph that takes {limits}")
        return fitting

    @property
    def all_files(self) -> tuple[str, ...]:
        """Every file or folder that the graph names."""
        single = (path for path in (self.source, self.layers) if path is not None)
        return (self.file, *self.extra_files, *self.source_extra_files, *single)


class CheckpointIdentity(Record):
    """The checkpoint that the bundle was made of; `random_weights` says that it was never trained."""

    name: str
    source: str
    weights_sha256: Sha256
    config_sha256: Sha256
    random_weights: bool


class Preprocessing(Record):
    """The named, versioned rule that makes an image fit (see `preprocess.py`), and the size in pixels it makes."""

    rule: str = "bicubic-center-crop/1"
    height: Side
    width: Side


class Tokens(Record):
    """Token grid (h, w), number of codes K, and width C of the continuous features."""

    grid: tuple[Side, Side]
    codebook_size: Annotated[int, Field(gt=0, lt=2**31)]
    """Of each level."""
    feature_width: PositiveInt | None
    """None where `encode` gives no features, or there is no such graph."""
    levels: Annotated[int, Field(ge=1, le=64)] = 1
    """Codes that a token has; written where it has several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's indices: (h, w), or with several codes a token (levels, h, w)."""
        return self.grid if self.levels == 1 else (self.levels, *self.grid)

    @model_serializer(mode="wrap")
    def _one_level_is_not_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "levels" or value != 1}


class EngineTies(Record):
    """What a compiled engine is tied to: it loads elsewhere only as far as these say."""

    version: str
    """The library's version that built it."""
    any_newer_version: bool
    """Whether later versions of the same major load it too."""
    platform: str
    """Operating system and architecture, such as `linux-x86_64`; `any` where the engine is portable."""
    compute_capabilities: tuple[str, ...]
    """Those of the GPUs that it was compiled for, such as `8.6`."""
    newer_hardware: bool
    """Whether GPUs of a higher compute capability than the least of these load it too."""


class RuntimeInfo(Record):
    """The runtime that the graphs are for; `hardware` names what they are tied to, None if to nothing."""

    name: str
    built_with: Versions
    options: Annotated[dict[str, str | int | bool], AfterValidator(_by_key)] = {}  # noqa: RUF012 - pydantic copies it
    hardware: str | None = None
    engine: EngineTies | None = None
    """For engines: what is compared on load."""


class Calibration(Record):
    """Where numeric ranges came from; `codebook_coverage` is the fraction of codes that the images use."""

    image_sha256: tuple[Sha256, ...]
    """Of each image's bytes after the preprocessing rule."""
    count: PositiveInt
    seed: int
    codebook_coverage: float
    plan: BundlePath
    """The precision of every layer, and how INT8 was made; `vqrae export --plan` takes it."""


class FileEntry(Record):
    """One file of the bundle; `size` in bytes."""

    path: BundlePath
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256

    def check_size(self, root: Path, found: int) -> None:
        """Compare the size that was found; `root` is the bundle's folder, for the error.

        Raises:
            BundleError: it is another one.
        """
        if found != self.size:
            got = f"{found} bytes" if found < self.size else f"more than {self.size} bytes"
            raise BundleError(str(root / self.path), got=got, expected=f"{self.size} bytes", remedy=_AGAIN)

    def check_digest(self, root: Path, found: str) -> None:
        """Compare the SHA-256 that was found; arguments and errors as for `check_size`."""
        if found != self.sha256:
            got, expected = f"SHA-256 {found[:12]}…", f"{self.sha256[:12]}…"
            raise BundleError(str(root / self.path), got=got, expected=expected, remedy=_AGAIN)


class Manifest(Record):
    """The whole of `manifest.json`."""

    format: Literal["vqrae-bundle"] = FORMAT_NAME
    format_version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")] = WHOLE_VERSION
    name: str
    created: str
    """ISO 8601, UTC."""
    created_with: Versions
    checkpoint: CheckpointIdentity
    graphs: Annotated[dict[str, GraphSpec], Field(min_length=1), AfterValidator(_by_key)]
    preprocessing: Preprocessing
    tokens: Tokens
    precision: Precision
    runtime: RuntimeInfo
    calibration: Calibration | None = None
    evidence: Evidence
    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _files_are_listed_once(self) -> Self:
        paths = [entry.path for entry in self.files]
        folded = {path.casefold() for path in paths}  # some file systems do not tell A from a
        if len(folded) < len(paths):
            raise ValueError("each file listed once")
        if MANIFEST_FILE in folded:
            raise ValueError(f"{MANIFEST_FILE} not among its own files")
        within = folders_above(folded)
        if clashing := within & {*folded, MANIFEST_FILE}:
            raise ValueError(f"no file in {min(clashing)}, which is a file itself")
        folders = folders_above(paths)
        absent = {path for graph in self.graphs.values() for path in graph.all_files} - set(paths) - folders
        if absent:
            raise ValueError(f"the graphs' file {min(absent)} among the files")
        if self.calibration is not None and self.calibration.plan not in paths:
            raise ValueError(f"the plan {self.calibration.plan} among the files")
        return self

    @model_validator(mode="after")
    def _version_has_what_it_says(self) -> Self:
        least = least_version(("encode", "decode"), self.tokens)
        if tuple(map(int, self.format_version.split("."))) < tuple(map(int, least.split("."))):
            raise ValueError(f"format version {least}, for bundles without features or with several codes a token")
        return self

    @model_validator(mode="after")
    def _only_int8_is_calibrated(self) -> Self:
        if self.calibration is not None and not self.precision.kind.needs_images:
            raise ValueError("no calibration, because the precision is not int8")
        return self

    @model_validator(mode="after")
    def _graphs_keep_their_signatures(self) -> Self:
        for name in self.graphs.keys() & {"encode", "decode"}:
            graph = self.graphs[name]
            batch = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else "batch"
            inputs, outputs = signature(name, self.preprocessing, self.tokens, batch=batch)
            if (graph.inputs, graph.outputs) != (inputs, outputs):
                wanted = f"{', '.join(map(str, inputs))} -> {', '.join(map(str, outputs))}"
                raise ValueError(f"the graph {name} to be {wanted}")
        return self

    def to_json(self) -> str:
        """The text of `manifest.json`: equal manifests give equal bytes.

        Raises:
            BundleError: a figure is NaN or infinite, which JSON cannot say.
        """
        try:
            return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise BundleError(f"the manifest of {self.name}", got=str(error), expected="finite figures") from error


def folders_above(paths: Iterable[str]) -> set[str]:
    """Every folder that one of these files lies in, however deep; the bundle's own is none of them."""
    found: set[str] = set()
    for path in paths:
        end = path.rfind("/")
        while end > 0 and path[:end] not in found:
            found.add(path[:end])
            end = path.rfind("/", 0, end)
    return found


def signature(
    graph: str, preprocessing: Preprocessing, tokens: Tokens, *, batch: int | str = "batch"
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of `encode` or `decode`, the same for every runtime.

    With several codes a token, indices are (batch, levels, h, w).

    Args:
        graph: `encode` or `decode`.
        preprocessing: gives the image's size.
        tokens: gives the grid and the features' width.
        batch: the batch axis: its name where it is dynamic, its size where it is fixed.
    """
    height, width = tokens.grid
    images = TensorSpec(name="images", dtype="uint8", shape=(batch, preprocessing.height, preprocessing.width, 3))
    indices = TensorSpec(name="indices", dtype="int32", shape=(batch, *tokens.shape))
    if graph == "decode":
        return (indices,), (images,)
    if tokens.feature_width is None:
        return (images,), (indices,)
    features = TensorSpec(name="features", dtype="float32", shape=(batch, height * width, tokens.feature_width))
    return (images,), (indices, features)


def least_version(graphs: Collection[str], tokens: Tokens) -> str:
    """The least format version that can say what a bundle with these graphs holds."""
    whole = {"encode", "decode"} <= {*graphs} and tokens.levels == 1 and tokens.feature_width is not None
    return WHOLE_VERSION if whole else FORMAT_VERSION


def manifest_schema() -> dict[str, Any]:
    """The JSON schema of `manifest.json`, for readers in other languages."""
    return Manifest.model_json_schema()


def read_manifest(path: Path | str) -> Manifest:
    """Read and validate a `manifest.json`.

    Raises:
        BundleError: too large, not JSON, of another format or major version, or a field is invalid.
        OSError: the file cannot be read.
    """
    return parse_manifest(str(path), read_manifest_bytes(path))


def read_manifest_bytes(path: Path | str, file: IO[bytes] | None = None) -> bytes:
    """The bytes of a `manifest.json`, `file` where it is open already: what is signed, and what `parse_manifest` takes.

    Raises:
        BundleError: too large.
        OSError: the file cannot be read.
    """
    with nullcontext(file) if file is not None else Path(path).open("rb") as opened:
        try:
            return limited(opened, MAX_MANIFEST_BYTES)
        except ValueError as error:
            raise BundleError(str(path), got=str(error), expected="a manifest that was written by vqrae") from error


def parse_manifest(name: str, text: bytes) -> Manifest:
    """Validate the bytes of a `manifest.json`; `name` is what errors call it.

    Raises:
        BundleError: not UTF-8, not JSON, of another format or major version, or a field is invalid.
    """
    try:
        values = parse_json(text)
    except ValueError as error:
        raise BundleError(name, got=f"invalid JSON ({error})", expected="a manifest", remedy=_AGAIN) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT_NAME:
        raise BundleError(name, got="another format", expected=f"format {FORMAT_NAME!r}")
    newer = _is_newer_minor(name, values.get("format_version"))
    return _validated(name, values, ignore_unknown=newer)


def _is_newer_minor(path: str, version: object) -> bool:
    """Whether a readable version is newer than ours; another major version is refused."""
    ours = FORMAT_VERSION.split(".")
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", version):
        raise BundleError(f"{path} field format_version", got=repr(version)[:80], expected=f"{FORMAT_VERSION!r}")
    major, minor = version.split(".")
    if int(major) != int(ours[0]):
        remedy = "upgrade vqrae, or export it again" if int(major) > int(ours[0]) else _AGAIN
        raise BundleError(path, got=f"format version {version}", expected=f"version {ours[0]}.x", remedy=remedy)
    return int(minor) > int(ours[1])


def _validated(path: str, values: dict[str, Any], *, ignore_unknown: bool) -> Manifest:
    try:
        return Manifest.model_validate_json(json.dumps(values), strict=True)  # strict JSON: "3" is not 3
    except ValidationError as error:
        details = error.errors(include_url=False)
        unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
        if ignore_unknown and len(unknown) == len(details):
            for *parents, field in unknown:
                record: Any = values
                for key in parents:
                    record = record[key]
                del record[field]
            return _validated(path, values, ignore_unknown=True)
        known = [detail for detail in details if detail["loc"] not in unknown] if ignore_unknown else details
        subject, got, expected = first_problem(path, known[0])
        if known[0]["type"] == "extra_forbidden":
            expected = f"a field of {FORMAT_VERSION}"
        raise BundleError(subject, got=got, expected=expected, remedy=_AGAIN) from error
