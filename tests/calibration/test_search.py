from __future__ import annotations

from collections.abc import Collection

import pytest
from trial_model import Model, products

from vqrae.calibration.search import Found, frontier, kept, search
from vqrae.calibration.sensitivity import layer_sensitivities
from vqrae.calibration.trials import Trial, Try
from vqrae.runtimes.errors import GateFailure
from vqrae.runtimes.precision import PRECISIONS, Budget

LIMITS = PRECISIONS["int8"].limits


def searched(most_damage: float, make: Try | None = None, given: Collection[str] = ()) -> Found:
    make = make or Model().make
    rows = layer_sensitivities(products(), make, lambda *_: None)
    return search(rows, make, lambda trial: trial.damage <= most_damage, lambda *_: None, given)


@pytest.mark.parametrize(
    ("most_damage", "layers"),
    [
        (1.0, ("a", "b", "c", "d", "e")),
        (0.1, ("b", "c", "d", "e")),
        (0.002, ("c", "d", "e")),
        (0.0012, ("c", "d")),
        (0.0001, ("d",)),
    ],
)
def test_the_fastest_that_keeps_the_budget_is_found(most_damage: float, layers: tuple[str, ...]) -> None:
    found = searched(most_damage)
    assert found.best.int8 == layers
    assert found.walked[0].int8 == ("a", "b", "c", "d", "e"), "it starts from INT8 everywhere"


def test_a_layer_that_the_budget_still_allows_comes_back() -> None:
    """`e` does more damage for its time than `b` and goes first; once `b` is gone there is room for it again."""
    walked = [trial.int8 for trial in searched(0.002).walked]
    assert walked[-2:] == [("c", "d"), ("c", "d", "e")]


def quick_together(layers: Collection[str]) -> Trial:
    """`b` and `d` save most where nothing else is INT8, which no walk of single layers sees."""
    made = Model().make(layers)
    return made.model_copy(update={"relative_time": 0.4, "relative_time_low": 0.4}) if {*layers} == {*"bd"} else made


def test_the_given_plan_is_the_best_where_it_is_faster() -> None:
    found = searched(0.02, quick_together, given="bd")
    assert found.best.int8 == ("b", "d")
    assert found.walked[-2].int8 == searched(0.02, quick_together).best.int8, "what the walk reached"


@pytest.mark.parametrize("given", ["cd", "abd"])
def test_a_given_plan_that_is_slower_or_over_the_budget_is_left(given: str) -> None:
    assert searched(0.02, given=given).best == searched(0.02).best


def test_a_given_plan_may_keep_what_the_walk_cannot() -> None:
    def make(layers: Collection[str]) -> Trial:
        return Model().make(layers).model_copy(update={"damage": 0.0 if {*layers} == {*"ab"} else 1.0})

    assert searched(0.02, make, given="ab").best.int8 == ("a", "b")


def test_a_budget_that_nothing_keeps_names_the_best_and_its_cost() -> None:
    message = r"plan of encode: got at best excess distortion 0\.0100%, token agreement 99\.98%, .*1 layers at INT8"
    with pytest.raises(GateFailure, match=message) as caught:
        searched(0.00001)
    assert caught.value.exit_code == 3
    assert "0.90 of FP32's time" in str(caught.value)


def trial(**changes: object) -> Trial:
    return Model().make([]).model_copy(update=changes)


@pytest.mark.parametrize(
    ("budget", "within", "beyond"),
    [
        (Budget(max_excess_distortion=0.01), {"damage": 0.01 * LIMITS.search_share}, {"damage": 0.01}),
        (
            Budget(min_token_agreement=0.9),
            {"token_agreement": 1 - 0.0999 * LIMITS.search_share},
            {"token_agreement": 0.9},
        ),
        (
            Budget(max_source_psnr_drop_db=0.1),
            {"source_psnr_drop_db": 0.05 * LIMITS.search_share},
            {"source_psnr_drop_db": 0.05},
        ),
        (Budget(), {"decode_psnr_db": 35.0}, {"decode_psnr_db": 34.9}),
        (Budget(max_excess_distortion=0.01), {"damage": 0.0}, {"damage": float("nan")}),
    ],
)
def test_a_budget_is_kept_with_a_margin(budget: Budget, within: dict[str, float], beyond: dict[str, float]) -> None:
    assert kept(trial(**within), budget, LIMITS)
    assert not kept(trial(**beyond), budget, LIMITS)


def test_excess_distortion_is_no_matter_of_the_decoder() -> None:
    assert kept(trial(graph="decode", damage=1.0), Budget(max_excess_distortion=0.01), LIMITS)


def test_the_frontier_holds_what_no_other_beats() -> None:
    def at(time: float, damage: float) -> Trial:
        return trial(relative_time=time, damage=damage)

    trials: Collection[Trial] = [at(0.9, 0.1), at(0.8, 0.2), at(0.85, 0.3), at(0.7, 0.4), at(0.9, 0.2), at(1.0, 0.1)]
    assert [(each.relative_time, each.damage) for each in frontier(trials)] == [(0.7, 0.4), (0.8, 0.2), (0.9, 0.1)]
