"""Runs of `vqrae.tokenizing` by one worker in this process, without Ray: what every other run is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vqrae.runtimes.session import SessionOptions
from vqrae.tokenizing import detokenize as detokenize_module
from vqrae.tokenizing import tokenize as tokenize_module
from vqrae.tokenizing.job import JobFolder, Outcome
from vqrae.tokenizing.workers import Numbered, Work, WorkerOptions


def _do_missing(
    folder: JobFolder[Any],
    work: type[Work],
    arguments: Mapping[str, Any],
    parts: Sequence[Numbered],
    _: WorkerOptions,
    progress: Callable[[int, int], None],
) -> None:
    worker = work(**arguments)
    for part in parts:
        if not folder.result(part.name).exists():
            worker.part(part.model_dump_json())


def tokenize_here(bundle: Path, data: Path | str, output: Path, **options: Any) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize_module, "do_missing", _do_missing)
        one = SessionOptions(threads=1)
        return tokenize_module.tokenize(bundle, str(data), output, WorkerOptions(), one, **options)


def detokenize_here(bundle: Path, tokens: Path, output: Path, **options: Any) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detokenize_module, "do_missing", _do_missing)
        one = SessionOptions(threads=1)
        return detokenize_module.detokenize(bundle, tokens, output, WorkerOptions(), one, **options)
