"""A graph whose layers do damage and save time independently of each other, for tests of the search."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vqrae.calibration.layers import Product
from vqrae.calibration.trials import Trial

DAMAGE: Mapping[str, float] = {"a": 0.5, "b": 0.01, "c": 0.001, "d": 0.0001, "e": 0.0004}
SAVES_MS: Mapping[str, float] = {"a": 1.0, "b": 4.0, "c": 1.0, "d": 2.0, "e": 0.1}
FLOAT_MS = 20.0


class Model:
    """Makes trials by addition, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def make(self, layers: Collection[str]) -> Trial:
        self.made += 1
        damage = sum(DAMAGE[layer] for layer in layers)
        time = 1 - sum(SAVES_MS[layer] for layer in layers) / FLOAT_MS
        return Trial(
            graph="encode",
            int8=tuple(sorted(layers)),
            damage=damage,
            token_agreement=max(1 - 2 * damage, 0),
            source_psnr_drop_db=damage,
            decode_psnr_db=60.0,
            relative_time=time,
            relative_time_low=time - 0.01,
            relative_time_high=time + 0.01,
            float_ms=FLOAT_MS,
        )


def products() -> list[Product]:
    """Their multiplications are proportional to what they save; `d` has no weight."""
    return [
        Product(
            layer=name,
            node=name,
            role="mlp",
            inputs=("x", name),
            has_weight=name != "d",
            multiplications=int(SAVES_MS[name] * 10),
        )
        for name in DAMAGE
    ]
