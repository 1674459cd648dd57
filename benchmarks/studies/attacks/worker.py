"""A process that loads the bundles it is told to and answers with hashes; whatever kills it is seen from outside.

It reads requests from standard input, one line of JSON each, and writes as many lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.errors import VqraeError
from vqrae.runtimes.tokenizer import Tokenizer, load

LOADED, SKIPPED = "loaded", "skipped"
"""What comes of `load`; the answer where nothing was loaded."""


class WorkerDied(Exception):  # noqa: N818 - an outcome that is counted
    """Its message is the signal's name, or `hang`."""


class Worker:
    """The process, seen from outside."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "vqrae.benchmarks.studies.attacks.worker"]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # `select` sees what was not read, not what lies in a buffer
            env={**os.environ, **environment},
        )

    def send(self, **request: Any) -> None:
        """Have it do something; it takes one request after the other."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerDied(self._end()) from error

    def answer(self, seconds: float) -> str:
        """What came of the oldest request: a hash, or an error's class.

        Raises:
            WorkerDied: it died, or said nothing for so long and was killed.
        """
        assert self._process.stdout is not None  # noqa: S101
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            self.close()
            raise WorkerDied("hang")
        if not (line := self._process.stdout.readline()):
            raise WorkerDied(self._end())
        return line.decode().strip()

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._end()

    def _end(self) -> str:
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _Tokenizers:
    """One at a time."""

    def __init__(self) -> None:
        self.loaded: Tokenizer | None = None

    def done(self, request: dict[str, Any]) -> str:
        """What came of a request."""
        if request["do"] == "load":
            self.close()
            self.loaded = load(request["path"], threads=1, **request["options"])
            return LOADED
        if self.loaded is None:
            return SKIPPED
        if request["do"] == "encode":
            encoding = self.loaded.encode(_images(self.loaded))
            return _hash(encoding.indices, encoding.features)
        return _hash(self.loaded.decode(_indices(self.loaded)))

    def close(self) -> None:
        """Nothing of the last one stays, whatever it was."""
        if self.loaded is not None:
            self.loaded.close()
            self.loaded = None


def _images(tokenizer: Tokenizer) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, *tokenizer.image_size, 3), np.uint8)


def _indices(tokenizer: Tokenizer) -> NDArray[np.int32]:
    return np.random.default_rng(0).integers(0, tokenizer.codebook_size, tokenizer.grid, np.int32)


def _hash(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    tokenizers = _Tokenizers()
    for line in sys.stdin:
        try:
            answer = tokenizers.done(json.loads(line))
        except VqraeError as error:
            answer = type(error).__name__
        except Exception as error:  # every class is an outcome that the parent counts, none is dropped
            answer = f"other {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
