"""What is called from Python, and what the verbs of the same names call: `vqrae.export` and `vqrae.verify`.

Light to import. What can be refused by names and tables alone is refused before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from vqrae.calibration.plan import PrecisionPlan
from vqrae.export.batch import Batch
from vqrae.export.formats import ALIASES, Target, format_key, target
from vqrae.images.report import note_aside
from vqrae.runtimes.errors import UsageError, needing, unknown_name
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.precision import PRECISIONS, quantized_names

if TYPE_CHECKING:
    from vqrae.calibration.images import CalibrationImages
    from vqrae.export.parity_images import ParityImages
    from vqrae.export.verify import VerifyRow
    from vqrae.runtimes.precision import Budget

Told = Callable[[str], None]


class Exported(NamedTuple):
    """What `export` returns."""

    rows: tuple[VerifyRow, ...]
    """A verdict for each bundle, in the order of formats and precisions; `row.bundle` is its folder."""
    calibration: CalibrationImages | None
    """What INT8 was calibrated on, and what of it was left out."""


def export(
    checkpoint: Path | str,
    output: Path | str,
    *,
    formats: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    size: tuple[int, int] | None = None,
    batch: int | str = "dynamic",
    options: Mapping[str, str] = MappingProxyType({}),
    split: bool = False,
    data: Path | None = None,
    images: int = 16,
    calibration: Path | None = None,
    calibration_images: int = 128,
    calibration_seed: int = 0,
    plan: Path | None = None,
    budget: Budget | None = None,
    allow_gate_failure: bool = False,
    overwrite: bool = False,
    report: Told = lambda text: None,
    note: Told = lambda text: None,
) -> Exported:
    """Export a checkpoint: one verified bundle for each format and precision, written into a folder.

    Args:
        checkpoint: its folder, or a preset's name for seeded random weights.
        output: folder that the bundles' folders are made in.
        formats: `onnx`, `openvino`, `coreml`, `tensorrt`, `tensorrt-rtx`, or an alias (`vqrae formats`).
        precisions: `fp32`, `fp16`, `int8`, `int8-weights`.
        size: (H, W) in pixels; None is the trained size.
        batch: `dynamic`, a number, `LEAST:BEST:MOST`, or `SIZE,SIZE,…`.
        options: of the formats, `NAME` or `FORMAT.NAME` -> value, as typed in a command.
        split: whether the parts of both graphs are written too.
        data: what holds the photographs to verify on, see `vqrae.images`; None is the held-out ones.
        images: how many of them.
        calibration: what holds the images to calibrate INT8 on, which needs them; nothing else takes any.
        calibration_images: how many of them.
        calibration_seed: names the choice.
        plan: file with the precision of every layer, for INT8.
        budget: limits for INT8 beside those of its gate.
        allow_gate_failure: write a bundle that misses its gate, marked as such.
        overwrite: whether bundles that exist are replaced.
        report: told what is being done.
        note: told what was left out or passed over of the images, and what is odd about them.

    Raises:
        UsageError: no such format, precision, option or size, or an output exists; nothing was written.
        CheckpointError, DataError, ImageError: what was read is damaged.
        GateFailure: a bundle misses its gate; it is not written.
        RuntimeUnavailable: what the format is made with is not installed.
    """
    chosen = None if plan is None else PrecisionPlan.read(plan)
    targets = _targets(formats, precisions, options, batch=str(batch), split=split, plan=chosen, budget=budget)
    check_calibration(calibration, precisions)
    with needing("export"):
        from vqrae.checkpoint import open_checkpoint
        from vqrae.export.build import BundleBuilder
        from vqrae.export.parity_images import parity_images
        from vqrae.export.tokenizers.vqrae import VqraeTokenizer

    read = [path for path in (checkpoint, data, calibration, plan) if path is not None]
    _check_outputs(str(checkpoint), Path(output), size, targets, read, overwrite=overwrite)
    tokenizer = VqraeTokenizer(open_checkpoint(str(checkpoint), size))
    proof = parity_images(data, tokenizer.model.size, images)
    note_aside("verification", proof, note)
    observed = None
    if calibration is not None:
        observed = calibration_of(calibration, calibration_images, calibration_seed, proof, note)
    with BundleBuilder(tokenizer, proof, report, observed) as builder:
        rows = tuple(
            builder.build(target, Path(output), allow_gate_failure=allow_gate_failure, overwrite=overwrite)
            for target in targets
        )
    for row in rows:
        note_coverage(row, note)
    return Exported(rows, observed)


def verify(
    bundles: Sequence[Path | str],
    options: LoadOptions | None = None,
    *,
    reference: str | None = None,
    data: Path | None = None,
    images: int = 16,
    report: Told = lambda text: None,
    note: Told = lambda text: None,
) -> list[VerifyRow]:
    """Run bundles and the PyTorch model on the same photographs, and judge each by the gate of its precision.

    Args:
        bundles: their folders.
        options: how they are loaded, and who must have signed them.
        reference: the checkpoint, whose hash must match; None looks where it lay at export.
        data: what holds the photographs, see `vqrae.images`; None is the held-out ones.
        images: how many of them.
        report: told what is being done.
        note: told what of `data` was left out.

    Returns:
        A verdict for each bundle, in their order: `row.misses` are the limits that it misses, and `row.executed` is
        False where its runtime is not here. Of several of one checkpoint, also what each loses with others' tokens.

    Raises:
        BundleError, SignatureError, CheckpointError, DataError, ImageError: what was read is invalid.
        UsageError: the reference is not there, or a runtime does not know the device.
    """
    with needing("export"):
        from vqrae.export.comparison import verify_all

    return verify_all(bundles, options or LoadOptions(), reference, data, images, report, note)


def check_calibration(source: Path | None, precisions: Sequence[str]) -> None:
    """Refuse images where nothing is observed on them, and their absence where something is, before any work.

    Raises:
        UsageError: one of the two.
    """
    if any(PRECISIONS[name].needs_images for name in precisions if name in PRECISIONS):
        needed_images(source)
    elif source is not None:
        raise UsageError("--calibration", got=f"precision {', '.join(precisions)}", expected="--precision int8")


def needed_images(source: Path | None) -> Path:
    """What holds the images; raises UsageError where there are none."""
    if source is None:
        remedy = "pass --calibration FOLDER; `vqrae photographs FOLDER --crops 128` writes some"
        raise UsageError("--calibration", got="nothing", expected="images, because of int8", remedy=remedy)
    return source


def calibration_of(source: Path, count: int, seed: int, verified_on: ParityImages, note: Told) -> CalibrationImages:
    """The images that were asked for, of the size of those that the bundle is verified on, and none of them.

    Raises:
        UsageError: they are too few, or one is among those.
        DataError: they cannot be read.
    """
    from vqrae.calibration.images import calibration_images, pixels_sha256

    kept_apart = {pixels_sha256(image): name for image, name in zip(verified_on.images, verified_on.names, strict=True)}
    height, width = verified_on.images.shape[1:3]
    images = calibration_images(source, (height, width), count=count, seed=seed, kept_apart=kept_apart)
    if images.duplicates:
        repeated = "a duplicate" if images.duplicates == 1 else f"{images.duplicates} duplicates"
        note(f"calibration: passed over {repeated}")
    note_aside("calibration", images, note)
    return images


def note_coverage(row: VerifyRow, note: Told) -> None:
    """Tell if the calibration images use few of the codes."""
    coverage, least = row.codebook_coverage, PRECISIONS[row.precision].limits.min_codebook_coverage
    if coverage is not None and least is not None and coverage < least:
        name = Path(row.bundle).name
        note(f"{name}: its calibration images use {coverage:.1%} of the codes: of another domain, or too few")


def _targets(
    formats: Sequence[str],
    precisions: Sequence[str],
    options: Mapping[str, str],
    *,
    batch: str,
    split: bool,
    plan: PrecisionPlan | None,
    budget: Budget | None,
) -> list[Target]:
    """What to build: every precision of every format, duplicates once."""
    quantized = {*quantized_names()}  # what is no precision at all, its format refuses
    if quantized.isdisjoint(precisions) and (plan or budget):
        raise UsageError("--plan and limits", got=f"precision {', '.join(precisions)}", expected="--precision int8")
    axis = Batch.parse(batch)
    return [
        target(
            name,
            precision,
            batch=axis,
            options=own,
            split=split,
            plan=plan if precision in quantized else None,
            budget=budget if precision in quantized else None,
        )
        for name, own in _options_of(formats, options).items()
        for precision in dict.fromkeys(precisions)
    ]


def _options_of(formats: Sequence[str], options: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Format -> its options: `NAME` is for all formats, `FORMAT.NAME` for one."""
    chosen: dict[str, dict[str, str]] = {format_key(name): {} for name in formats}
    for typed, value in options.items():
        owner, dot, name = typed.rpartition(".")
        if dot and ALIASES.get(owner, owner) not in chosen:
            raise unknown_name(f"format of --option {typed}", owner, list(chosen))
        for format_name in [ALIASES.get(owner, owner)] if dot else chosen:
            chosen[format_name][name] = value
    return chosen


def _check_outputs(
    checkpoint: str,
    output: Path,
    size: tuple[int, int] | None,
    targets: Sequence[Target],
    read: Sequence[Path | str],
    *,
    overwrite: bool,
) -> None:
    """Refuse outputs that exist, or that lie in what is read, and what no writer is installed for."""
    from vqrae.checkpoint import open_config
    from vqrae.export.build import bundle_name, check_target
    from vqrae.export.tokenizers.vqrae import tokenizer_name
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import check_new_folder

    config = open_config(checkpoint)
    paths = [output / bundle_name(tokenizer_name(config, size), target) for target in targets]
    check_apart({f"bundle {path.name}": path for path in paths}, read)
    for wanted, path in zip(targets, paths, strict=True):
        check_target(wanted)
        check_new_folder(path, overwrite=overwrite)
