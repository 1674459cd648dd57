"""Runs of `vqrae.tokenizing` by one worker in this process, without Ray: what every other run is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vqrae.runtimes.load_options import LoadOptions
from vqrae.tokenizing import detokenize as detokenize_module
from vqrae.tokenizing import tokenize as tokenize_module
from vqrae.tokenizing import workers
from vqrae.tokenizing.job import Outcome, SomePart
from vqrae.tokenizing.workers import Work, WorkerOptions


def _do_parts(
    work: type[Work],
    arguments: Mapping[str, Any],
    parts: Sequence[SomePart],
    _: WorkerOptions,
    progress: Callable[[int], None],
) -> None:
    worker = work(**arguments)
    for part in parts:
        worker.part(part.to_json())


def tokenize_here(bundle: Path, data: Path | str, output: Path, **options: Any) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "do_parts", _do_parts)
        one = LoadOptions(threads=1)
        return tokenize_module.tokenize(bundle, str(data), output, WorkerOptions(load=one), **options)


def interrupted(folder: Path, lost: Sequence[str] = ()) -> Path:
    """A finished run's folder as a kill leaves it when all parts but the lost ones are done."""
    (folder / "reports").mkdir()
    for path, line in zip(parts_of(folder), (folder / "parts.jsonl").read_text().splitlines(), strict=True):
        name = path.name.partition(".")[0]
        (folder / "reports" / f"{name}.json").write_text(line)
        if name in lost:
            path.unlink()
    for name in ("parts.jsonl", "dead-letters.jsonl", "complete.json"):
        (folder / name).unlink()
    return folder


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def detokenize_here(bundle: Path, tokens: Path, output: Path, **options: Any) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "do_parts", _do_parts)
        one = LoadOptions(threads=1)
        return detokenize_module.detokenize(bundle, tokens, output, WorkerOptions(load=one), **options)
