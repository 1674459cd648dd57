"""The folder that the steps work in: what they trained, and a JSON file of figures for each that is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vqrae.benchmarks.studies.downstream.scale import UsesScale
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.runtimes.staging import write_output

SCALE_FILE = "scale.json"


class StepResult(BaseModel):
    """What is kept of a step that is finished."""

    model_config = ConfigDict(frozen=True)

    name: str
    figures: dict[str, Any]
    seconds: float
    """Wall time of the process that finished it; of a step that was stopped, since it went on."""
    cpu_seconds: float
    """Of all its threads, in the same time."""
    made_on: str
    """Machine and versions."""


class Workplace:
    """Where things lie."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written yet."""
        self.folder = folder
        self.photographs = folder / "photographs"
        self.tokenizer = folder / "tokenizer"
        self.encoder, self.checkpoint = self.tokenizer / "encoder", self.tokenizer / "stage2"
        self.bundles, self.scenes = folder / "bundles", folder / "scenes"
        self.reader = folder / "reader" / "reader"
        self.codes = folder / "codes" / "train.npy"

    def painter_run(self, step: str) -> Path:
        """The run folder of the painter that a step trains."""
        return self.folder / "painters" / step.replace(" ", "-")

    def painted(self, split: str) -> Path:
        """The codes that are judged."""
        return self.folder / "painted" / f"{split}.npy"

    def picture(self, name: str) -> Path:
        """A picture of the page."""
        return self.folder / "pictures" / f"{name}.png"

    def claim(self, scale: UsesScale) -> None:
        """Write down what the folder is for, or compare with what is written there.

        Raises:
            UsageError: it is another scale's.
        """
        path = self.folder / SCALE_FILE
        text = scale.model_dump_json(indent=2) + "\n"
        if path.exists():
            if path.read_text() != text:
                remedy = "give another --work folder"
                raise UsageError(
                    str(self.folder), got="another scale's work", expected=f"that of {path.name}", remedy=remedy
                )
            return
        write_output(path, text)

    def result(self, name: str) -> StepResult | None:
        """What a step gave; None if it is not finished.

        Raises:
            DataError: the file is damaged.
        """
        path = self._result_path(name)
        if not path.exists():
            return None
        try:
            return StepResult.model_validate_json(path.read_text())
        except ValidationError as error:
            got, remedy = error.errors()[0]["msg"], "delete it to do the step again"
            raise DataError(str(path), got=got, expected="a step's result", remedy=remedy) from error

    def finished(self, name: str) -> StepResult:
        """What a step gave.

        Raises:
            DataError: it is not finished, or its file is damaged.
        """
        result = self.result(name)
        if result is None:
            raise DataError(str(self._result_path(name)), got="no such file", expected="a step's result")
        return result

    def keep(self, result: StepResult) -> None:
        """Write a result."""
        write_output(self._result_path(result.name), result.model_dump_json(indent=2) + "\n")

    def _result_path(self, name: str) -> Path:
        return self.folder / "results" / f"{name}.json"
