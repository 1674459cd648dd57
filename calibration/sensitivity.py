"""What each layer costs at INT8 and what it saves: alone, and as the only one that is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vqrae.calibration.layers import Product
from vqrae.calibration.trials import Trial, Try
from vqrae.runtimes.json_text import Record

TRUST = 4
"""How far a layer's measured time is believed: within this factor of what its share of the arithmetic lets expect."""
Progress = Callable[[str, int, int], None]
"""Called with what is tried, the trials done, and the trials in all."""


class Sensitivity(Record):
    """One layer, or one group of layers."""

    name: str
    layers: tuple[str, ...]
    share: float
    """Of the multiplications of all layers that are tried."""
    damage_alone: float
    """What the graph loses when it alone is INT8; see `Trial.damage`."""
    ms_won_alone: float
    damage_regained: float
    """How much less the graph loses when it alone stays in float, and all else is INT8."""
    ms_lost: float
    """What that costs in latency."""

    def damage_per_ms(self, whole_ms: float) -> float:
        """What it costs at INT8 for a millisecond that it saves.

        By itself, since beside layers that do far more damage its own cannot be seen. The two measurements of its time
        are averaged, and kept within a factor of `TRUST` of its share of what INT8 everywhere saves, `whole_ms`: beyond
        that they are noise.
        """
        expected = max(whole_ms * self.share, 1e-6)
        measured = (self.ms_won_alone + self.ms_lost) / 2
        return self.damage_alone / min(max(measured, expected / TRUST), expected * TRUST)


def layer_sensitivities(products: Sequence[Product], make: Try, progress: Progress) -> list[Sensitivity]:
    """Every layer of a graph, most harmful at INT8 first."""
    return _sensitivities({product.layer: (product.layer,) for product in products}, products, make, progress)


def group_sensitivities(products: Sequence[Product], make: Try, progress: Progress) -> list[Sensitivity]:
    """Every group of a graph's layers, attention's own two products apart from those with weights, and every block."""
    groups: dict[str, list[str]] = {}
    for product in products:
        kind = product.group if product.has_weight else product.kind
        groups.setdefault(kind, []).append(product.layer)
        parts = product.layer.split(".")
        if "blocks" in parts:
            groups.setdefault(f"block {parts[parts.index('blocks') + 1]}", []).append(product.layer)
    return _sensitivities({name: tuple(layers) for name, layers in groups.items()}, products, make, progress)


def _sensitivities(
    groups: dict[str, tuple[str, ...]], products: Sequence[Product], make: Try, progress: Progress
) -> list[Sensitivity]:
    names = {product.layer for product in products}
    whole = sum(product.multiplications for product in products)
    everything = make(names)
    found = []
    for done, (name, layers) in enumerate(groups.items()):
        progress(name, 2 * done, 2 * len(groups))
        alone = make(layers)
        progress(name, 2 * done + 1, 2 * len(groups))
        without = make(names - set(layers))
        multiplications = sum(product.multiplications for product in products if product.layer in layers)
        found.append(_sensitivity(name, layers, multiplications / whole, alone, without, everything))
    return sorted(found, key=lambda sensitivity: -sensitivity.damage_alone)


def _sensitivity(
    name: str, layers: tuple[str, ...], share: float, alone: Trial, without: Trial, everything: Trial
) -> Sensitivity:
    return Sensitivity(
        name=name,
        layers=layers,
        share=share,
        damage_alone=alone.damage,
        ms_won_alone=alone.ms_won,
        damage_regained=everything.damage - without.damage,
        ms_lost=everything.ms_won - without.ms_won,
    )
