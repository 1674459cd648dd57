"""Tokens back to images: what a worker does with a file of tokens, and the whole run."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import DataError, UsageError, controls
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.staging import claimed_folder, staged_file, staged_folder
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.tokenizing.job import (
    COMPLETE_FILE,
    JOB_FILE,
    REPORTS,
    ImageJob,
    JobFolder,
    Outcome,
    TokenJob,
    content_of,
    read_json,
)
from vqrae.tokenizing.token_files import SUFFIXES, Tokens, add_member, read_tokens
from vqrae.tokenizing.workers import WorkerOptions, run_job

ImageLayout = Literal["folder", "webdataset"]
RESULT_SUFFIXES: dict[str, str] = {"folder": "", "webdataset": ".tar"}
MOST_KEY_BYTES = 255 - len(".png")
"""Of each part of a key that becomes a file's name."""


class TokenPart(Record):
    """One file of tokens."""

    name: str
    kind: Literal["tokens"] = "tokens"
    file: str
    images: int

    @property
    def files(self) -> tuple[str, ...]:
        """What it is made of."""
        return (self.file,)

    def to_json(self) -> str:
        """See `SomePart`."""
        return self.model_dump_json()


class DetokenizeWork:
    """Decodes files of tokens; a bundle is loaded once for all of them."""

    def __init__(self, bundle: Path, load: LoadOptions, root: Path, folder: Path, job: ImageJob) -> None:
        self._tokenizer = Tokenizer.from_bundle(Bundle.listed(bundle, sha256=job.bundle_sha256), load)
        self._root, self._job = root, job
        self._folder = JobFolder(folder, job, RESULT_SUFFIXES[job.layout])

    def part(self, text: str) -> int:
        """See `Work`."""
        part = TokenPart.model_validate_json(text)
        made_of = content_of(self._root / part.file)[1]
        tokens = read_tokens(self._root / part.file, self._tokenizer.grid)
        target = self._folder.result(part.name)
        in_folder = self._job.layout == "folder"
        staged = staged_folder(target, overwrite=True, lock=False) if in_folder else staged_file(target, lock=False)
        with staged as staging:
            (self._write_folder if in_folder else self._write_tar)(staging, tokens)
            self._folder.seal(part.name, staging, images=len(tokens.keys), source_sha256=made_of)
        return len(tokens.keys)

    def _write_folder(self, folder: Path, tokens: Tokens) -> None:
        """`KEY.png` for each; its folders too."""
        for key, image in self._decoded(tokens):
            path = folder / f"{_safe(key)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:  # a key that comes twice must not replace an image
                file.write(_png(image))

    def _write_tar(self, path: Path, tokens: Tokens) -> None:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, (key, image) in enumerate(self._decoded(tokens)):
                add_member(archive, f"{number:06d}.png", _png(image))
                add_member(archive, f"{number:06d}.json", json.dumps({"key": key}, ensure_ascii=False).encode())

    def _decoded(self, tokens: Tokens) -> list[tuple[str, NDArray[np.uint8]]]:
        if not tokens.keys:
            return []
        graph = self._tokenizer.manifest.graphs["decode"]
        size = None if graph.fixed_batch or graph.batch_limits else self._job.batch
        images = self._tokenizer.decode(tokens.indices, batch_size=size)
        return list(zip(tokens.keys, images, strict=True))


def detokenize(
    bundle_path: Path,
    tokens: Path,
    output: Path,
    options: WorkerOptions,
    *,
    layout: ImageLayout = "folder",
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Decode a data set of tokens, or go on where a run was stopped.

    Args:
        bundle_path: a bundle of the checkpoint that made the tokens; its runtime and precision may be others.
        tokens: the folder that `tokenize` has written, complete.
        output: folder of the result: `part-000000/KEY.png`, or `part-000000.tar` with images and keys.
        options: who does the work, which makes no difference to the result; the bundle's signature is compared here.
        layout: of the result.
        batch: images that are computed together.
        progress: called with the images that are done, those of earlier runs included, and how many there are.
        note: see `tokenize`.

    Raises:
        BundleError: the bundle is invalid.
        DataError: there are no complete tokens, or they are damaged, or a key leaves the folder.
        RuntimeUnavailable: the bundle's runtime, or Ray, is not there or failed.
        UsageError: the tokens are of another checkpoint, or changed; or `output` is something else or being written.
        StorageError: the operating system refused to read or write.
    """
    with claimed_folder(output, REPORTS) as path:
        bundle, root = Bundle.open(bundle_path.resolve(), public_key=options.load.public_key), tokens.resolve()
        made = read_json(root / JOB_FILE, TokenJob)
        parts = _parts(made, read_json(root / COMPLETE_FILE, Outcome).images)
        job = _job(bundle, tokens, made, layout, batch)
        folder = JobFolder.open(path, job, RESULT_SUFFIXES[layout], parts)
        work = (DetokenizeWork, folder, parts, lambda part: content_of(root / part.file)[1], bundle.path, root)
        return run_job(*work, options=options, progress=progress, note=note)


def _job(bundle: Bundle, tokens: Path, made: TokenJob, layout: ImageLayout, batch: int) -> ImageJob:
    weights = bundle.manifest.checkpoint.weights_sha256
    if made.weights_sha256 != weights:
        got, expected = f"tokens of {made.bundle}, {made.weights_sha256[:12]}…", f"those of {weights[:12]}…"
        raise UsageError(str(tokens), got=got, expected=expected, remedy="use a bundle of the same checkpoint")
    return ImageJob(
        bundle=bundle.manifest.name,
        bundle_sha256=bundle.sha256,
        tokens_parts_sha256=made.parts_sha256,
        tokens_bundle_sha256=made.bundle_sha256,
        layout=layout,
        batch=batch,
        parts=made.parts,
    )


def _parts(made: TokenJob, total: int) -> list[TokenPart]:
    """One for each file of tokens; how the images are spread over them is estimated, for the progress only."""
    names = [f"part-{number:06d}" for number in range(made.parts)]
    each, more = divmod(total, made.parts)
    suffix = SUFFIXES[made.layout]
    return [
        TokenPart(name=name, file=f"{name}{suffix}", images=each + (number < more)) for number, name in enumerate(names)
    ]


def _safe(key: str) -> PurePosixPath:
    """A key as a path that stays in its folder, whatever the system takes for one."""
    path, windows = PurePosixPath(key), PureWindowsPath(key)
    subject, remedy = f"key {key!a:.200}", "write tars with --format webdataset, which keep any key"
    if path.is_absolute() or windows.anchor or ".." in (*path.parts, *windows.parts) or not path.parts:
        raise DataError(subject, got="a path that leaves its folder", expected="one below it", remedy=remedy)
    if any(map(controls, key)) or max(len(part.encode()) for part in path.parts) > MOST_KEY_BYTES:
        expected = f"at most {MOST_KEY_BYTES} bytes in each part, and no control character"
        raise DataError(subject, got="no name for a file", expected=expected, remedy=remedy)
    return path


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
