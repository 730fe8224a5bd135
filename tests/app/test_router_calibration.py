from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.classifier.calibration import (
    Outcomes,
    RouterCalibration,
    calibrate_budget,
    calibrate_router,
    frontier,
    p_value,
    point,
)
from app.errors import ConfigError

MAX_SCORES = (0.3, 0.7, 1.0)
COST = np.array([0.0001, 0.001, 0.01])


def outcomes(count: int = 4000, seed: int = 0, informed: float = 1.0) -> Outcomes:
    """The higher the score, the more often a weak tier fails; the top tier solves nine in ten."""
    random = np.random.default_rng(seed)
    difficulty = random.random(count)
    scores = informed * difficulty + (1 - informed) * random.random(count)
    solves = random.random((count, 1)) > np.stack([difficulty, difficulty**4, np.full(count, 0.1)], axis=1)
    return Outcomes(scores, solves.astype(float), np.tile(COST, (count, 1)))


def test_a_row_goes_to_the_tier_of_as_many_cut_points_as_it_reaches() -> None:
    rows = Outcomes(np.array([0.0, 0.2, 0.5, 0.9]), np.ones((4, 3)), np.tile(COST, (4, 1)))
    assert rows.routed((0.2, 0.9)).tolist() == [0, 1, 1, 2]
    found = point(rows, (0.2, 0.9))
    assert found.shares == (0.25, 0.5, 0.25)
    assert found.usd_per_1k == pytest.approx(1000 * (0.0001 + 2 * 0.001 + 0.01) / 4)


def test_the_frontier_falls_in_cost_and_in_quality_from_all_to_the_top() -> None:
    points = frontier(outcomes())
    assert points[0].shares == (0.0, 0.0, 1.0)
    costs = [p.usd_per_1k for p in points]
    assert costs == sorted(costs, reverse=True)
    kept = [p.quality_kept for p in points[1:]]
    assert kept == sorted(kept, reverse=True)


def test_a_p_value_is_seldom_small_where_the_mean_is_not_above_zero() -> None:
    draws = [np.random.default_rng(run).choice([-0.9, 0.1], 500, p=[0.1, 0.9]) for run in range(200)]
    assert sum(p_value(draw) <= 0.05 for draw in draws) <= 20


def test_a_p_value_is_small_where_the_mean_is_well_above_zero() -> None:
    assert p_value(np.random.default_rng(0).choice([-0.9, 0.1], 1000, p=[0.02, 0.98])) < 0.001


@pytest.mark.parametrize("seed", range(5))
def test_the_promise_holds_on_rows_not_seen(seed: int) -> None:
    found = calibrate_router(outcomes(seed=seed), MAX_SCORES, 0.9, 0.95, "c", "d")
    assert point(outcomes(20_000, seed + 100), found.cuts).quality_kept >= 0.9
    assert found.usd_per_1k < 0.7 * found.usd_per_1k_top


def test_a_stricter_promise_costs_more() -> None:
    costs = [
        calibrate_router(outcomes(), MAX_SCORES, quality, 0.95, "c", "d").usd_per_1k for quality in (0.8, 0.9, 0.95)
    ]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_data_that_cannot_support_the_promise_says_so() -> None:
    with pytest.raises(ConfigError, match=r"cannot support 99\.9% .* on 50 rows"):
        calibrate_router(outcomes(100), MAX_SCORES, 0.999, 0.95, "c", "d")


def test_a_budget_buys_the_best_quality_there_is() -> None:
    found = calibrate_budget(outcomes(), MAX_SCORES, 3.0, 0.95, "c", "d")
    assert 2.0 < found.usd_per_1k <= 3.0
    richer = calibrate_budget(outcomes(), MAX_SCORES, 6.0, 0.95, "c", "d")
    assert richer.quality_kept > found.quality_kept
    with pytest.raises(ConfigError, match=r"the cheapest cost \$0\.1"):
        calibrate_budget(outcomes(), MAX_SCORES, 0.05, 0.95, "c", "d")


def test_a_budgets_figures_are_of_rows_that_chose_nothing() -> None:
    found = calibrate_budget(outcomes(), MAX_SCORES, 3.0, 0.95, "c", "d")
    assert found.rows == 2000
    assert found.quality_kept == pytest.approx(point(outcomes(20_000, 7), found.cuts).quality_kept, abs=0.02)


def calibrate_either(rows: Outcomes) -> list[str]:
    """Say why neither a promise nor a budget can be had."""
    said = []
    with pytest.raises(ConfigError) as refused:
        calibrate_router(rows, MAX_SCORES, 0.9, 0.95, "c", "d")
    said.append(refused.value.message)
    with pytest.raises(ConfigError) as refused:
        calibrate_budget(rows, MAX_SCORES, 100.0, 0.95, "c", "d")
    return [*said, refused.value.message]


@pytest.mark.parametrize("count", [1, 99])
def test_too_few_rows_say_how_many_it_takes(count: int) -> None:
    for message in calibrate_either(outcomes(count)):
        assert "takes 100 rows or more" in message
        assert message.endswith(f"there are {count}")


def test_a_top_tier_that_solves_nothing_has_no_quality_to_keep() -> None:
    rows = outcomes(200)
    for message in calibrate_either(replace(rows, quality=np.zeros_like(rows.quality))):
        assert "the top tier's outcome is above 0 in 0 of 200 rows" in message


def test_mapped_scores_fall_on_the_same_side_of_the_customary_cut_points(tmp_path: Path) -> None:
    found = calibrate_router(outcomes(), MAX_SCORES, 0.9, 0.95, "c", "d")
    found.save(tmp_path / "router.json")
    again = RouterCalibration.load(tmp_path / "router.json")
    assert again == found
    scores = np.random.default_rng(1).random(1000).astype(np.float32)
    scores[:2] = found.cuts
    mapped = again.mapped(scores)
    assert (np.searchsorted(found.cuts, scores, side="right") == np.searchsorted((0.3, 0.7), mapped, "right")).all()
    order = np.argsort(scores)
    assert (np.diff(mapped[order]) >= 0).all()
    assert mapped.min() >= 0
    assert mapped.max() <= 1


def test_a_file_that_is_none_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tierwise calibrate router"):
        RouterCalibration.load(tmp_path / "none.json")
