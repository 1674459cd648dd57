"""Find a plan for a format: sensitivities, the search, and what was found out, resumable from its log of trials."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrae import __version__
from vqrae.calibration.plan import PrecisionPlan
from vqrae.calibration.search import Found, kept, search
from vqrae.calibration.sensitivity import Sensitivity, group_sensitivities, layer_sensitivities
from vqrae.calibration.trials import GRAPHS, GraphName, Trial, TrialLog
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import Target
from vqrae.export.reference import reference_from_model
from vqrae.export.trials import GraphTrials
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.parity import Reference
from vqrae.runtimes.precision import PRECISIONS, Budget, Limits
from vqrae.runtimes.registry import runtime_version

TRIALS_FILE = "trials.jsonl"


@dataclass(frozen=True, kw_only=True)
class GraphPlanning:
    """What was found out about one graph."""

    graph: GraphName
    layers: tuple[Sensitivity, ...]
    """Most harmful at INT8 first."""
    groups: tuple[Sensitivity, ...]
    found: Found
    trials: tuple[Trial, ...]
    """All that were made."""


def search_plan(
    builder: BundleBuilder, target: Target, images: NDArray[np.uint8], folder: Path
) -> tuple[PrecisionPlan, list[GraphPlanning]]:
    """Search both graphs of a tokenizer.

    Args:
        builder: of its bundles, with images to calibrate on.
        target: at INT8, for a runtime that loads ONNX; its plan says how INT8 is made, and the precisions of the layers
            are what is searched for; of what its budget leaves open, the gate's limits hold.
        images: to measure trials on, uint8 (B, H, W, 3); none of them was calibrated on.
        folder: keeps the log of trials, from which a search that was stopped goes on.

    Returns:
        The plan, and what was found out about each graph.

    Raises:
        GateFailure: no plan keeps the budget.
        DataError: the folder's log is of another search.
    """
    builder.report("running the PyTorch reference on the images to measure on")
    reference = reference_from_model(builder.tokenizer, images)
    plan = target.chosen_plan(builder.sources.int8.all_products)
    plan.check(builder.sources.int8.all_products)
    log = TrialLog(folder / TRIALS_FILE, _made_with(builder, reference, target.format.runtime, plan))
    graphs = [_search_graph(builder, name, plan, target, reference, log) for name in GRAPHS]
    chosen = {layer for graph in graphs for layer in graph.found.best.int8}
    return plan.with_layers({layer: "int8" if layer in chosen else "float" for layer in plan.layers}), graphs


def _search_graph(
    builder: BundleBuilder, name: GraphName, plan: PrecisionPlan, target: Target, reference: Reference, log: TrialLog
) -> GraphPlanning:
    products = [product for product in builder.sources.int8.products[name] if product.role != "scores"]
    limits = PRECISIONS[target.precision].limits
    budget = _whole(target.budget, limits)
    given = [product.layer for product in plan.int8(products)]

    def progress(step: str, done: int, total: int) -> None:
        builder.report(f"{name}: {step}, {done + 1} of {total}")

    with GraphTrials(builder.sources.int8, plan, name, target.format.runtime, reference) as trials:
        make = log.keeping(name, trials.make)
        layers = layer_sensitivities(products, make, progress)
        groups = group_sensitivities(products, make, progress)
        found = search(
            layers,
            make,
            lambda trial: kept(trial, budget, limits),
            progress,
            given,
        )
    made = tuple(trial for trial in log if trial.graph == name)
    return GraphPlanning(graph=name, layers=tuple(layers), groups=tuple(groups), found=found, trials=made)


def _whole(budget: Budget | None, limits: Limits) -> Budget:
    """A budget with the gate's limits where it leaves one open."""
    given = {name: getattr(limits, name) for name in Budget.model_fields}
    return Budget(**given | (budget.model_dump(exclude_none=True) if budget else {}))


def _made_with(builder: BundleBuilder, reference: Reference, runtime: str, plan: PrecisionPlan) -> dict[str, str]:
    """What trials depend on: those of one log have it in common."""
    image = builder.tokenizer.preprocessing
    return {
        "vqrae": __version__,
        "checkpoint": builder.tokenizer.identity.weights_sha256,
        "image size": f"{image.height}x{image.width}",
        "runtime": f"{runtime} {runtime_version(runtime)}",
        "machine": str(this_machine()),
        "calibration images": hashlib.sha256("".join(builder.sources.int8.images.sha256).encode()).hexdigest(),
        "images to measure on": hashlib.sha256(reference.images.tobytes()).hexdigest(),
        "ranges": plan.ranges,
        "smoothing": str(plan.smoothing),
    }
