"""The tokenizer that users hold: images to indices and features, and back; the same for every runtime, torch-free."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import BundleError, EngineMismatch, ImageError, IndicesError, UsageError, VqraeError
from vqrae.runtimes.load_options import LoadOptions, Sealing
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.manifest import GraphSpec, Manifest
from vqrae.runtimes.pool import done_ahead
from vqrae.runtimes.preprocess import RULE, ImageLike, prepare
from vqrae.runtimes.rebuild import rebuild as rebuilt
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import Sealed, close_after_loading
from vqrae.runtimes.session import Execution, Session

BATCH_SIZE = 32
"""Images that run at once, unless the graph takes fewer or its batch is fixed."""
MOST_PREPARERS = 16
"""Images that are decoded and resized at once; each may take as much memory as `preprocess.MAX_PIXELS` allow."""

_SURVIVES_FORK = {"onnxruntime"}
"""Runtimes that a forked process can load anew; others wait for threads that the fork left behind."""
_first_users: dict[str, int] = {}
"""Runtime -> the process that used it first."""

Images = ImageLike | Sequence[ImageLike]
"""One image, a list of them, or a batch uint8 (B, H, W, 3)."""


class Encoding(NamedTuple):
    """What `Tokenizer.encode` returns."""

    indices: NDArray[np.int32]
    """Token indices (B, h, w), each in [0, codebook size); with several codes a token (B, levels, h, w)."""
    features: NDArray[np.float32]
    """Continuous features (B, h·w, C), row by row of the token grid; C is 0 where the bundle gives none."""


class Tokenizer(Closing):
    """A deployed tokenizer. Load one with `vqrae.load`; use it from any thread, and close it, or use it in a `with`.

    A process that was forked has to load its own, and of runtimes other than ONNX Runtime nothing may have been used
    before the fork; both is refused. Threads may share one: each call that goes on at once has buffers of its own.

    A graph is loaded when it is first needed.
    """

    def __init__(self, bundle: Bundle, session: type[Session], options: LoadOptions) -> None:
        self._bundle = bundle
        self._session_class = session
        self._options = options
        self._sessions: dict[str, Session] = {}
        self._sealed = ExitStack()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str | None = None,
        threads: int | None = None,
        streams: int = 1,
        cache: Path | str | None = None,
        rebuild: bool = False,
        trusted: bool = False,
        public_key: Path | str | None = None,
        sealing: Sealing | None = None,
    ) -> Self:
        """Make the tokenizer of a bundle. What a graph is made of is verified when that graph is first needed.

        Args:
            path: the bundle's folder.
            device: see `LoadOptions`, as for all that is not said here.
            threads: CPU threads to use.
            streams: chunks of a large batch that go on at once.
            cache: folder where a runtime may keep what it compiled.
            rebuild: load a graph at once, and where its engine was built for another machine, replace the bundle by one
                that is built for this one, from the ONNX graphs that it holds.
            trusted: whether code that the bundle brings may be executed.
            public_key: file of the key that must have signed the bundle.
            sealing: where the bytes lie while a runtime loads them: `disk` or `memory`.

        Raises:
            BundleError: the bundle is incomplete, or asks for another preprocessing rule; a graph that was changed is
                found when it is loaded.
            SignatureError: it is not signed by that key.
            RuntimeUnavailable: its runtime is not installed, or cannot rebuild it.
            UsageError: its runtime is unknown to this version, or cannot load from memory; an option is impossible, or
                a bundle whose signature is asked for is to be rebuilt, which makes another one of it.
        """
        folder, key = (None if place is None else Path(place) for place in (cache, public_key))
        where = LoadOptions(device=device, threads=threads, streams=streams, cache=folder, sealing=sealing)
        options = replace(where, trusted=trusted, public_key=key)
        return cls.open(path, options, rebuild=rebuild)

    @classmethod
    def open(cls, path: Path | str, options: LoadOptions, *, rebuild: bool = False) -> Self:
        """The same as `load`, of options that are one value."""
        key = options.public_key
        if rebuild and key is not None:
            remedy = "check it with the key first, rebuild it without, and sign what was built"
            raise UsageError("rebuild", got="a public key too", expected="one of them", remedy=remedy)
        # A bundle that is signed may come from anyone, so nothing of it is touched before all of it is known.
        bundle = Bundle.listed(path) if key is None else Bundle.open(path, public_key=key)
        tokenizer = cls.from_bundle(bundle, options)
        if rebuild:
            try:
                tokenizer.session(next(iter(tokenizer.manifest.graphs)))
            except EngineMismatch:
                return cls.from_bundle(rebuilt(path, options.device), options)
        return tokenizer

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: LoadOptions) -> Self:
        """The tokenizer of a bundle that was opened or listed already, its signature compared; errors as for `load`."""
        rule = bundle.manifest.preprocessing.rule
        if rule != RULE:
            subject = f"{bundle.path} preprocessing rule"
            raise BundleError(subject, got=repr(rule), expected=repr(RULE), remedy="upgrade vqrae")
        return cls(bundle, session_class(bundle.manifest.runtime.name), options)

    @property
    def bundle(self) -> Bundle:
        """The bundle behind it."""
        return self._bundle

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self._bundle.manifest

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (h, w)."""
        return self.manifest.tokens.grid

    @property
    def codebook_size(self) -> int:
        """Number of codes K."""
        return self.manifest.tokens.codebook_size

    @property
    def levels(self) -> int:
        """Codes that a token has: 1, or more where several are one token."""
        return self.manifest.tokens.levels

    @property
    def image_size(self) -> tuple[int, int]:
        """Size (H, W) in pixels of what goes in and comes out."""
        return self.manifest.preprocessing.height, self.manifest.preprocessing.width

    @property
    def execution(self) -> dict[str, Execution]:
        """What really runs, for each graph that is loaded by now."""
        with self._lock:
            return {name: session.execution for name, session in sorted(self._sessions.items())}

    @property
    def main_execution(self) -> Execution:
        """What really runs `encode`, or the graph that there is; it must be loaded."""
        execution = self.execution
        return execution.get("encode") or next(iter(execution.values()))

    def encode(self, images: Images, *, batch_size: int | None = None) -> Encoding:
        """Tokenize images. While a chunk of them runs, the next is decoded and resized, by at most `threads` threads.

        Args:
            images: one image, a list of images (paths, Pillow images, uint8 arrays (H, W, 3)), or a batch uint8
                (B, H, W, 3). An array of exactly `image_size` is taken as it is; the rest is resized by the rule.
            batch_size: images that run at once; None is `BATCH_SIZE`, or what the graph takes at most, or each
                stream's share if that is less. A graph with a fixed batch uses its own.

        Returns:
            Indices int32 (B, h, w) and features float32 (B, h·w, C), where C is 0 if the bundle gives none; one image
            is a batch of one.

        Raises:
            ImageError: an image cannot be read or is of no supported kind, or there is none.
            UsageError: `batch_size` is more than the graph takes.
            RuntimeUnavailable: the device is not there, or the runtime failed.
        """
        sources = _image_list(images)
        size = self._chunk_size("encode", len(sources), batch_size)
        with closing(self._prepared(sources, size)) as chunks:
            parts = self._at_once(lambda chunk: self._run("encode", chunk), chunks)
        made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        indices, (h, w) = made["indices"], self.grid
        return Encoding(indices, made.get("features", np.zeros((len(indices), h * w, 0), np.float32)))

    def decode(self, indices: ArrayLike, *, batch_size: int | None = None) -> NDArray[np.uint8]:
        """Turn indices back into images.

        Args:
            indices: integers (h, w) or (B, h, w), each in [0, codebook size); with several codes a token
                (levels, h, w) or (B, levels, h, w).
            batch_size: images that run at once; None is `BATCH_SIZE`, or what the graph takes at most, or each
                stream's share if that is less. A graph with a fixed batch uses its own.

        Returns:
            uint8 (B, H, W, 3), RGB; one grid is a batch of one.

        Raises:
            IndicesError: wrong dtype, shape or range.
            UsageError: `batch_size` is more than the graph takes.
            RuntimeUnavailable: the device is not there, or the runtime failed.
        """
        checked = self._checked_indices(indices)
        chunks = _chunks(checked, self._chunk_size("decode", len(checked), batch_size))
        return np.concatenate(self._at_once(lambda chunk: self._run("decode", chunk)["images"], chunks))

    def reconstruct(self, images: Images, *, batch_size: int | None = None) -> NDArray[np.uint8]:
        """Encode and decode: what the tokenizer keeps of images. Arguments and errors as for `encode`.

        Returns:
            uint8 (B, H, W, 3), RGB.
        """
        self._graph("decode")  # before the work, where there is none
        return self.decode(self.encode(images, batch_size=batch_size).indices, batch_size=batch_size)

    def session(self, graph: str) -> Session:
        """The loaded session of a graph: the bare runtime, for measuring it. It closes with the tokenizer.

        Raises:
            BundleError: the bundle has no such graph, or the runtime refuses it.
            UsageError: the tokenizer is closed, or loaded before this process was forked.
        """
        runtime, process = self.manifest.runtime.name, os.getpid()
        used_by = process if runtime in _SURVIVES_FORK else _first_users.setdefault(runtime, process)
        for other in {self._process, used_by} - {process}:
            got, remedy = f"{runtime} loaded by process {other}", "load it in children only, or start them by spawn"
            raise UsageError(f"{self._bundle.path} in a forked process", got=got, remedy=remedy)
        with self._lock:
            if self._closed:
                raise UsageError(str(self._bundle.path), got="a closed tokenizer", expected="an open one")
            if graph not in self._sessions:
                self._sessions[graph] = self._opened(self._graph(graph))
            return self._sessions[graph]

    def close(self) -> None:
        """Release the runtime's memory; a second call does nothing, and neither does one in a forked process."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._closed = True
            with self._sealed, ExitStack() as closing:  # closes them all, whichever fails
                while self._sessions:
                    closing.enter_context(self._sessions.popitem()[1])

    def _opened(self, graph: GraphSpec) -> Session:
        """Seal, verify and load a graph; plain weights are hashed while the runtime packs them."""
        backend, files = self._session_class, (graph.file, *graph.extra_files)
        beside = graph.extra_files if backend.plain_weights else ()
        with ExitStack() as stack:
            sealed = stack.enter_context(Sealed.of(self._bundle, files, self._sealing()))
            sealed.check(path for path in files if path not in beside)
            try:
                session = stack.enter_context(backend.open(sealed, graph, self._options, self.manifest.runtime))
            except VqraeError as error:
                sealed.renamed(error)
                raise
            finally:
                sealed.check(beside)  # that a file was changed tells more than what the runtime says of it
            stack.pop_all()  # the session stays open
            if close_after_loading(sealed):
                sealed.close()
            else:
                self._sealed.enter_context(sealed)
            return session

    def _sealing(self) -> Sealing:
        offered, wanted = self._session_class.sealings, self._options.sealing
        if wanted == "memory" and wanted not in offered:
            got = f"memory, for {self.manifest.runtime.name}"
            raise UsageError("sealing", got=got, expected=" or ".join(offered), remedy="it loads from files only")
        return wanted if wanted in offered else offered[0]

    def _graph(self, name: str) -> GraphSpec:
        graphs = self.manifest.graphs
        if name not in graphs:
            got = f"graphs {', '.join(graphs)}"
            raise BundleError(str(self._bundle.path), got=got, expected=f"a graph {name}", remedy="export it again")
        return graphs[name]

    def _chunk_size(self, name: str, count: int, batch_size: int | None) -> int:
        """Images of `count` that run at once, of those that the graph takes; fewer where every stream has a share."""
        if batch_size is not None and batch_size < 1:
            raise UsageError("batch_size", got=str(batch_size), expected="at least 1")
        graph = self._graph(name)
        if graph.fixed_batch is not None:
            return graph.fixed_batch
        limits = graph.batch_limits
        share = min(BATCH_SIZE, math.ceil(count / self._options.streams))
        if limits is None:
            return batch_size or share
        if batch_size is not None and batch_size > limits.most:
            expected, remedy = f"at most {limits.most}, which {name} was built for", "export it with a larger --batch"
            raise UsageError("batch_size", got=str(batch_size), expected=expected, remedy=remedy)
        return batch_size or min(share, limits.most)

    def _at_once(self, work: Callable[[Any], Any], chunks: Iterable[Any]) -> list[Any]:
        """Do the work on every chunk, `streams` chunks at a time; results in order."""
        streams = self._options.streams
        if streams == 1:
            return [work(chunk) for chunk in chunks]
        return list(done_ahead(work, chunks, threads=streams, most=streams + 1))

    def _prepared(
        self, images: Sequence[ImageLike] | NDArray[Any], size: int
    ) -> Generator[NDArray[np.uint8], None, None]:
        """Chunks uint8 (B, H, W, 3) of `size` images, which are prepared ahead for every stream's next chunk."""
        if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (*self.image_size, 3):
            yield from _chunks(images, size)
            return
        prepare_one, streams = self._preparation(), self._options.streams
        if len(images) == 1 or all(self._fits(image) for image in images):
            ready: Generator[NDArray[np.uint8], None, None] = (prepare_one(image) for image in images)
        else:
            threads = min(self._options.threads or this_machine().cores, MOST_PREPARERS)
            ready = done_ahead(prepare_one, images, threads=threads, most=size * streams + 1)
        with closing(ready):
            while chunk := list(islice(ready, size)):
                yield np.stack(chunk)

    def _fits(self, image: ImageLike) -> bool:
        """Whether it is in memory and of the right size."""
        return isinstance(image, np.ndarray) and image.shape == (*self.image_size, 3)

    def _preparation(self) -> Callable[[ImageLike], NDArray[np.uint8]]:
        """How one image is prepared, by any thread."""
        pillow = threading.Lock()  # a Pillow image loads when first used, and a list may hold one twice

        def prepare_one(image: ImageLike) -> NDArray[np.uint8]:
            with pillow if isinstance(image, Image.Image) else nullcontext():
                return prepare(image, *self.image_size)

        return prepare_one

    def _run(self, graph: str, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run one chunk; a graph that takes certain sizes gets zeros to fill the next, whose results are dropped."""
        session, spec = self.session(graph), self._graph(graph)
        missing = spec.fitting_batch(len(batch)) - len(batch)
        filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing else batch
        outputs = session.run({spec.inputs[0].name: np.ascontiguousarray(filled)})
        return {name: array[: len(batch)] for name, array in outputs.items()}

    def _checked_indices(self, indices: ArrayLike) -> NDArray[np.int32]:
        shape = self.manifest.tokens.shape
        sides = ", ".join(map(str, shape))
        expected = f"integers ({sides}) or (B, {sides})"
        try:
            array = np.asarray(indices)
        except ValueError as error:
            raise IndicesError("indices", got="rows of different lengths", expected=expected) from error
        if array.dtype.kind not in "iu":
            raise IndicesError("indices", got=f"dtype {array.dtype}", expected=expected)
        if array.shape[-len(shape) :] != shape or array.ndim not in (len(shape), len(shape) + 1) or not array.size:
            raise IndicesError("indices", got=f"shape {array.shape}", expected=expected)
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.codebook_size:
            limits = f"0 to {self.codebook_size - 1}"
            raise IndicesError("indices", got=f"values from {low} to {high}", expected=limits)
        return array.astype(np.int32).reshape(-1, *shape)


load = Tokenizer.load
"""`vqrae.load`: the same as `Tokenizer.load`, which says what its arguments are."""


def _image_list(images: Images) -> Sequence[ImageLike] | NDArray[Any]:
    """A sequence of images, whether one or several were given."""
    several = images.ndim == 4 if isinstance(images, np.ndarray) else isinstance(images, Sequence)
    if not several or isinstance(images, str):
        return [images]  # type: ignore[list-item] # a single image, by elimination
    if not len(images):  # type: ignore[arg-type] # a sequence, by elimination
        raise ImageError("images", got="none", expected="at least one")
    return images  # type: ignore[return-value] # a sequence, by elimination


def _chunks(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))
