"""`vqrae eval`: reconstruction, codebook health and semantics of a checkpoint or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqrae.cli.options import AsJson, Device, Threads, Trusted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def evaluate(
    source: Annotated[Path, typer.Argument(help="A checkpoint's or a bundle's folder.", metavar="CHECKPOINT|BUNDLE")],
    data: Annotated[Path, typer.Option(help="Folder of photographs.")],
    crops: Annotated[
        int,
        typer.Option(help="Evaluate on this many random crops, as in training, instead of whole photographs.", min=0),
    ] = 0,
    color_jitter: Annotated[float, typer.Option(help="Strength of color jitter on the crops.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Names the crops.", min=0)] = 0,
    probe: Annotated[bool, typer.Option("--probe", help="Also train a linear probe on labelled scenes.")] = False,
    device: Device = None,
    threads: Threads = None,
    trusted: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a CHECKPOINT in PyTorch, or a BUNDLE through its runtime, on the same images."""
    from vqrae.cli.needs import needing
    from vqrae.cli.output import print_fields, print_json
    from vqrae.runtimes.manifest import MANIFEST_FILE
    from vqrae.runtimes.tokenizer import load

    with needing("train"):
        from vqrae.checkpoint import from_pretrained
        from vqrae.reference import ArrayTokenizer, ReferenceTokenizer
        from vqrae.training import evaluate as evaluation

    more: dict[str, Any] = {}
    if (source / MANIFEST_FILE).exists():
        deployed = load(source, device=device, threads=threads, trusted=trusted)
        tokenizer: ArrayTokenizer = deployed
        size, codebook_size = deployed.image_size, deployed.codebook_size
        images = _images(data, size, crops, color_jitter, seed)
    else:
        model = from_pretrained(source)
        tokenizer, config = ReferenceTokenizer(model), model.config
        size, codebook_size = model.size, config.quantizer.codebook_size
        images = _images(data, size, crops, color_jitter, seed)
        more = evaluation.codebook_figures(model, tokenizer.encode(images[:64])[1])
    report = evaluation.evaluate(tokenizer, codebook_size, images, str(source))
    if probe:
        more["probe"] = _probe(tokenizer, _side(size, "--probe"))
    report = report.model_copy(update=more)
    print_json(report) if as_json else print_fields(str(source), report.model_dump(exclude={"source"}))


def _side(size: tuple[int, int], option: str) -> int:
    """The side of a square image; what is made of training's images has no other shape."""
    from vqrae.runtimes.errors import UsageError

    height, width = size
    if height != width:
        raise UsageError(option, got=f"a tokenizer of {height}x{width} images", expected="square ones")
    return height


def _images(data: Path, size: tuple[int, int], crops: int, color_jitter: float, seed: int) -> NDArray[np.uint8]:
    import numpy as np

    from vqrae.runtimes.image_files import image_files
    from vqrae.runtimes.preprocess import prepare
    from vqrae.training.data import CroppedPhotographs

    paths = image_files(data)
    if crops:
        return CroppedPhotographs(paths, _side(size, "--crops"), color_jitter).batch(crops, [seed])
    return np.stack([prepare(path, *size) for path in paths])


def _probe(tokenizer: Any, size: int) -> dict[str, float]:
    from vqrae.cli.needs import needing

    with needing("train"):
        from vqrae.training.photographs import HELD_OUT, TRAIN, photographs
        from vqrae.training.probe import probe_accuracy

    return probe_accuracy(tokenizer, list(photographs(TRAIN).values()), list(photographs(HELD_OUT).values()), size)
