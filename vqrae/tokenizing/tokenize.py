"""Images to tokens: what a worker does with a part, and the whole run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrae.images.parts import Part, Source, source_of
from vqrae.images.reading import EncodedImage, encoded_images
from vqrae.images.report import Damaged
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import DataError, ImageError, UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.preprocess import prepare, read_image
from vqrae.runtimes.staging import claimed_folder, staged_file
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.tokenizing.job import DEAD_LETTERS_FILE, REPORTS, Aside, JobFolder, Outcome, TokenJob
from vqrae.tokenizing.token_files import SUFFIXES, Layout, Tokens, joined, write_tokens
from vqrae.tokenizing.workers import WorkerOptions, run_job

MOST_CODES = 2**16


class SourceDigest:
    """The hash of what a part is made of so far: every image's key and bytes, or why there are none."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, encoded: EncodedImage) -> str:
        """Add the next image; returns the hash of its bytes."""
        image = hashlib.sha256(encoded.content or b"").hexdigest()
        what = f"{encoded.key}\0{image if encoded.content is not None else encoded.problem}\n"
        self._digest.update(what.encode(errors="surrogatepass"))
        return image

    @property
    def hexdigest(self) -> str:
        """The hash."""
        return self._digest.hexdigest()


def source_sha256(root: Path, part: Part) -> str:
    """The hash of a whole part."""
    digest = SourceDigest()
    for encoded in encoded_images(root, part):
        digest.add(encoded)
    return digest.hexdigest


class TokenizeWork:
    """Tokenizes parts; a bundle is loaded once for all of them."""

    def __init__(self, bundle: Path, load: LoadOptions, root: Path, folder: Path, job: TokenJob) -> None:
        self._tokenizer = Tokenizer.from_bundle(Bundle.listed(bundle, sha256=job.bundle_sha256), load)
        self._root, self._job, self._streams = root, job, load.streams
        self._folder = JobFolder(folder, job, SUFFIXES[job.layout])

    def part(self, text: str) -> int:
        """See `Work`."""
        part = Part.from_json(text)
        dead: list[Damaged] = []
        keys: list[str] = []
        digests: list[str] = []
        batches: list[NDArray[np.int32]] = []
        images: list[NDArray[np.uint8]] = []
        source = SourceDigest()
        for encoded in encoded_images(self._root, part):
            image_sha256 = source.add(encoded)
            image = self._prepared(encoded)
            if isinstance(image, Damaged):
                dead.append(image)
                continue
            keys.append(encoded.key)
            digests.append(image_sha256)
            images.append(image)
            if len(images) == self._job.batch * self._streams:
                batches.append(self._indices(images))
                images = []
        if images:
            batches.append(self._indices(images))
        tokens = Tokens(keys, digests, joined(batches, self._job.grid))
        with staged_file(self._folder.result(part.name), lock=False) as staging:
            write_tokens(staging, tokens, layout=self._job.layout, bundle_sha256=self._job.bundle_sha256)
            images_made, source_made = len(keys), source.hexdigest
            self._folder.seal(part.name, staging, images=images_made, dead=dead, source_sha256=source_made)
        return len(keys) + len(dead)

    def _prepared(self, encoded: EncodedImage) -> NDArray[np.uint8] | Damaged:
        if encoded.content is None:
            return Damaged(key=encoded.key, reason=encoded.problem or "no content")
        try:
            return prepare(read_image("image", BytesIO(encoded.content)), *self._tokenizer.image_size)
        except ImageError as error:
            return Damaged(key=encoded.key, reason=str(error))

    def _indices(self, images: list[NDArray[np.uint8]]) -> NDArray[np.int32]:
        return self._tokenizer.encode(np.stack(images), batch_size=self._batch_size).indices

    @property
    def _batch_size(self) -> int | None:
        """None where the graph takes certain sizes only; the tokenizer then fills and cuts batches itself."""
        graph = self._tokenizer.manifest.graphs["encode"]
        return None if graph.fixed_batch or graph.batch_limits else self._job.batch


def tokenize(
    bundle_path: Path,
    data: str,
    output: Path,
    options: WorkerOptions,
    *,
    layout: Layout = "parquet",
    batch: int = 32,
    part_images: int = 1024,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Tokenize a data set, or go on where a run was stopped.

    Args:
        bundle_path: the bundle's folder; on a cluster, as `data` and `output`, the same on every node.
        data: see `files.data_files`.
        output: folder of the result.
        options: who does the work, which makes no difference to the result; the bundle's signature is compared here.
        layout: of the parts' files.
        batch: images that are computed together.
        part_images: images in a part, which is what a killed run loses at most for each worker.
        progress: called with the images that are done, those of earlier runs included, and how many there are.
        note: called with what a run that goes on has found: parts that are damaged, sources that were touched.

    Raises:
        BundleError, RuntimeUnavailable: the bundle is invalid; its runtime, or Ray, is not there or failed.
        DataError: there is no data, or none of its images can be read.
        UsageError: `output` is something else or being written, the data changed, or codes do not fit 16 bits.
        StorageError: the operating system refused to read or write.
    """
    with claimed_folder(output, REPORTS) as path:
        bundle = Bundle.open(bundle_path.resolve(), public_key=options.load.public_key)
        source = source_of(data, size=part_images)
        job, root = _job(bundle, source, layout, batch, part_images), source.root
        work = (TokenizeWork, JobFolder.open(path, job, SUFFIXES[layout], source.parts), source.parts)
        files, aside = (partial(source_sha256, root), bundle.path, root), Aside(source.left_out, source.damaged)
        return _checked(path, run_job(*work, *files, options=options, progress=progress, note=note, aside=aside))


def _checked(path: Path, outcome: Outcome) -> Outcome:
    """A run that took nothing has failed, and its folder says why."""
    if not outcome.images:
        got = f"0 images, {outcome.dead_letters:,} that cannot be read"
        raise DataError(str(path), got=got, expected="at least one", remedy=f"see {path / DEAD_LETTERS_FILE}")
    return outcome


def _job(bundle: Bundle, source: Source, layout: Layout, batch: int, part_images: int) -> TokenJob:
    manifest = bundle.manifest
    if manifest.tokens.codebook_size > MOST_CODES:
        got, expected = f"{manifest.tokens.codebook_size} codes", f"at most {MOST_CODES}, which fit 16 bits"
        raise UsageError(str(bundle.path), got=got, expected=expected)
    listing = "\n".join(part.to_json() for part in source.parts)
    return TokenJob(
        bundle=manifest.name,
        bundle_sha256=bundle.sha256,
        weights_sha256=manifest.checkpoint.weights_sha256,
        rule=manifest.preprocessing.rule,
        image_size=(manifest.preprocessing.height, manifest.preprocessing.width),
        grid=manifest.tokens.grid,
        codebook_size=manifest.tokens.codebook_size,
        layout=layout,
        batch=batch,
        part_images=part_images,
        parts=len(source.parts),
        parts_sha256=hashlib.sha256(listing.encode()).hexdigest(),
    )
