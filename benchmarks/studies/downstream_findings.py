"""What the finished steps say, put together: sizes over seeds, bundles beside PyTorch, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from vqrae.benchmarks.studies.downstream_scale import UsesScale
from vqrae.benchmarks.studies.downstream_steps import bundle_name, export_name, painter_name
from vqrae.benchmarks.studies.runner import Result
from vqrae.benchmarks.studies.study import Spread
from vqrae.downstream.tasks import JUDGED
from vqrae.downstream.world import Split

PROBE_LIMIT, SWAP_LIMIT, RECOGNIZED_LIMIT = 0.02, 0.03, 0.80
BUNDLE_LIMITS = {"fp32": 0.01, "fp16": 0.01, "int8": 0.02}
"""Largest loss of a task's accuracy through a bundle."""
TASKS = ("probe", "vqa", "generate")
RECOGNIZED = (
    "An attribute of a generated image is recognized as asked in 80 % at least",
    "All five attributes of a generated image at once",
)
"""What is to be shown of each split."""


class SizeFindings(NamedTuple):
    """One size of the painters."""

    name: str
    parameters: int
    flops: float
    """6 × parameters × tokens: of the whole training."""
    losses: dict[Split, Spread]
    """Split -> nats a code, over seeds."""


class BundleFindings(NamedTuple):
    """One bundle beside PyTorch."""

    format_name: str
    precision: str
    figures: dict[str, Any]
    """Empty where there is no bundle."""
    changes: dict[str, float]
    """Task -> its accuracy on the scenes of `test` minus PyTorch's."""
    gate: str
    missing: str | None


class Verdict(NamedTuple):
    """A claim, what was seen, and whether it holds."""

    claim: str
    seen: str
    holds: bool


class UsesFindings:
    """All of it."""

    def __init__(self, scale: UsesScale, results: Mapping[str, Result]) -> None:
        """Results of all steps, by name."""
        self.scale = scale
        self.results = results

    def figures(self, step: str) -> dict[str, Any]:
        """Of one step."""
        return self.results[step].figures

    def sizes(self) -> list[SizeFindings]:
        """The painters, the smallest first."""
        return [self._size(name) for name in self.scale.sizes]

    def _size(self, name: str) -> SizeFindings:
        seeds = [self.figures(painter_name(name, seed)) for seed in self.scale.seeds]
        losses = {split: _spread([figures["losses"][split] for figures in seeds]) for split in JUDGED}
        grid, phase = self.scale.tokenizer.model.grid, self.scale.scaling.phase
        tokens = phase.steps * phase.batch_size * grid[0] * grid[1]
        parameters = int(seeds[0]["parameters"])
        return SizeFindings(name, parameters, 6.0 * parameters * tokens, losses)

    def bundles(self) -> list[BundleFindings]:
        """In the order of the exports."""
        return [self._bundle(name, precision) for name, precision in self.scale.exports]

    def _bundle(self, name: str, precision: str) -> BundleFindings:
        figures, exported = self.figures(bundle_name(name, precision)), self.figures(export_name(name, precision))
        if "missing" in figures:
            return BundleFindings(name, precision, {}, {}, "–", figures["missing"])
        reference = figures.get("pytorch", self.figures("pytorch"))
        changes = {task: task_score(figures, task) - task_score(reference, task) for task in TASKS}
        return BundleFindings(name, precision, figures, changes, exported["gate"], None)

    def probe_change(self) -> float:
        """Mean accuracy of the linear probe on the tokenizer's features minus that on the pretrained encoder's."""
        probes = self.figures("probes")
        after, before = (
            probes[name]["test"]["linear"]["mean"] for name in ("continuous features", "pretrained encoder")
        )
        return float(after - before)

    def swap_change(self) -> float:
        """Mean accuracy of the answers with the tokenizer in the encoder's place, minus with the encoder."""
        reading = self.figures("reading")
        return float(reading["tokenizer"]["test"]["mean"] - reading["pretrained encoder"]["test"]["mean"])

    def verdicts(self) -> list[Verdict]:
        """What was to be shown."""
        judged = self.figures("pytorch")["generate"]["accuracy"]
        recognized = {split: (judged[split]["mean"], judged[split]["all"]) for split in JUDGED}
        losses = [size.losses["test"].mean for size in self.sizes()]
        claimed = [
            (
                "The linear probe on continuous features after stage 2 is within 2 points of the pretrained encoder's",
                f"{self.probe_change() * 100:+.1f} points",
                self.probe_change() >= -PROBE_LIMIT,
            ),
            (
                "The tokenizer in the encoder's place, adapter and language model as they were, loses 3 points at most",
                f"{self.swap_change() * 100:+.1f} points",
                self.swap_change() >= -SWAP_LIMIT,
            ),
        ]
        for number, claim in enumerate(RECOGNIZED):
            for split, shares in recognized.items():
                claimed.append((f"{claim}, {split} pairs", f"{shares[number]:.1%}", shares[number] >= RECOGNIZED_LIMIT))
        falls = all(later < earlier for earlier, later in pairwise(losses))
        claimed.append(("The loss falls with the size of the model", ", ".join(f"{x:.3f}" for x in losses), falls))
        return [*(Verdict(*each) for each in claimed), *map(_bundle_verdict, self.executed())]

    def executed(self) -> list[BundleFindings]:
        """The bundles that are there."""
        return [bundle for bundle in self.bundles() if bundle.missing is None]


def _bundle_verdict(bundle: BundleFindings) -> Verdict:
    worst, limit = min(bundle.changes, key=bundle.changes.__getitem__), BUNDLE_LIMITS[bundle.precision]
    return Verdict(
        f"No task loses more than {limit:.0%} through {bundle.format_name} {bundle.precision}",
        f"{bundle.changes[worst] * 100:+.2f} points at most ({worst})",
        bundle.changes[worst] >= -limit - 1e-9,
    )


def task_score(figures: Mapping[str, Any], task: str) -> float:
    """A task's mean accuracy over attributes or topics, on `test`."""
    return float(figures[task]["accuracy"]["test"]["mean"])


def _spread(values: list[float]) -> Spread:
    spread = Spread.of(values)
    if spread is None:
        raise ValueError("no seeds")
    return spread
