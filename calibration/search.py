"""The search for a plan: the fastest set of INT8 layers that keeps a budget.

It starts from INT8 everywhere but in the scores of the codes, and walks layers back to float, first the one that gives
back most for a millisecond, until the budget is kept; where the plan that it was given keeps it too and is faster, it
goes on from there; then it takes layers to INT8 again, the cheapest first, as long as the budget is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from vqrae.calibration.sensitivity import Progress, Sensitivity
from vqrae.calibration.trials import Trial, Try
from vqrae.runtimes.errors import GateFailure
from vqrae.runtimes.parity import Check
from vqrae.runtimes.precision import Budget, Limits


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the search for one graph came to."""

    best: Trial
    walked: tuple[Trial, ...]
    """From INT8 everywhere to the best, a layer at a time; between them may be a leap to the plan that was given."""


def kept(trial: Trial, budget: Budget, limits: Limits) -> bool:
    """Whether a trial keeps its share of the budget; both graphs share what may be lost to the photographs."""

    def share(limit: float | None) -> float | None:
        return None if limit is None else limit * limits.search_share

    agreement, drop = budget.min_token_agreement, budget.max_source_psnr_drop_db
    others = None if agreement is None else 1 - agreement
    distortion = budget.max_excess_distortion if trial.graph == "encode" else None
    checks = (
        Check("decode PSNR", trial.decode_psnr_db, ">=", limits.min_decode_psnr_db, " dB"),
        Check("excess distortion", trial.damage, "<=", share(distortion), "%"),
        Check("other tokens", 1 - trial.token_agreement, "<=", share(others), "%"),
        Check("PSNR drop to source", trial.source_psnr_drop_db, "<=", share(None if drop is None else drop / 2), " dB"),
    )
    return all(check.kept is not False for check in checks)


def search(
    sensitivities: Sequence[Sensitivity],
    make: Try,
    keeps: Callable[[Trial], bool],
    progress: Progress,
    given: Collection[str],
) -> Found:
    """Walk from INT8 everywhere to a set of layers that keeps the budget.

    Args:
        sensitivities: of every layer.
        make: tries a set of layers.
        keeps: judges a trial.
        progress: told of each step.
        given: layers at INT8 in the plan to begin with: what is found is no slower, if it keeps the budget.

    Raises:
        GateFailure: not even a graph with one INT8 layer keeps it, nor the given plan; names the best that the walk
            reached, and its cost.
    """
    everything = make({sensitivity.name for sensitivity in sensitivities})
    by_gain = sorted(sensitivities, key=lambda s: -s.damage_per_ms(everything.ms_won))
    walked = _walk_back(by_gain, everything, make, keeps, progress)
    reached = [trial for trial in (walked[-1], *([make(given)] if given else [])) if keeps(trial)]
    if not reached:
        raise _out_of_reach(walked)
    best = min(reached, key=lambda trial: trial.relative_time)
    if best is not walked[-1]:
        walked.append(best)
    left = [sensitivity for sensitivity in by_gain if sensitivity.name not in best.int8]
    for step, sensitivity in enumerate(reversed(left)):
        progress(f"{sensitivity.name} to INT8 again", step, len(by_gain))
        trial = make({*best.int8, sensitivity.name})
        # It does less work: slower by no more than the noise is not slower.
        if keeps(trial) and trial.relative_time_low <= best.relative_time:
            best = trial
            walked.append(trial)
    return Found(best=best, walked=tuple(walked))


def _walk_back(
    by_gain: Sequence[Sensitivity], everything: Trial, make: Try, keeps: Callable[[Trial], bool], progress: Progress
) -> list[Trial]:
    """From INT8 everywhere, one layer after another to float, until a trial keeps the budget or no layer is left."""
    walked, current = [everything], set(everything.int8)
    for step, sensitivity in enumerate(by_gain):
        if keeps(walked[-1]):
            break
        progress(f"{sensitivity.name} to float", step, len(by_gain))
        current.discard(sensitivity.name)
        if not current:
            break
        walked.append(make(current))
    return walked


def frontier(trials: Collection[Trial]) -> list[Trial]:
    """Those that no other beats in both time and damage, fastest first."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.relative_time, trial.damage)):
        if not found or trial.damage < found[-1].damage:
            found.append(trial)
    return found


def _out_of_reach(walked: Sequence[Trial]) -> GateFailure:
    best = min(walked, key=lambda trial: trial.damage)
    got = (
        f"at best excess distortion {best.damage:.4%}, token agreement {best.token_agreement:.2%}"
        if best.graph == "encode"
        else f"at best decode PSNR {best.decode_psnr_db:.1f} dB"
    )
    layers = f"{len(best.int8)} layers at INT8, {best.relative_time:.2f} of FP32's time"
    return GateFailure(
        f"plan of {best.graph}",
        got=f"{got}, {best.source_psnr_drop_db:+.4f} dB to the photographs, with {layers}",
        expected="what the budget allows",
        remedy="allow more",
    )
