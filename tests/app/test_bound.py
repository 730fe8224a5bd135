from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.bound import LOOSEST, Bound, Tally, total


def test_nothing_checked_says_nothing() -> None:
    assert Tally().interval(0.95) == (0.0, 1.0)


@given(st.integers(1, 5000), st.data())
def test_the_interval_holds_the_share_seen(checked: int, data: st.DataObject) -> None:
    wrong = data.draw(st.integers(0, checked))
    low, high = Tally(checked, wrong).interval(0.95)
    assert 0 <= low <= wrong / checked <= high <= 1
    wider = Tally(checked, wrong).interval(0.99)
    assert wider[0] <= low
    assert high <= wider[1]


def test_the_interval_narrows_with_more_checks() -> None:
    widths = [high - low for low, high in (Tally(n, n // 50).interval(0.95) for n in (50, 500, 5000))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("share", [0.005, 0.01, 0.05])
def test_the_interval_seldom_leaves_the_true_share_though_looked_at_after_every_check(share: float) -> None:
    """The promise of a confidence sequence: in at most one run of twenty it is wrong at any time at all."""
    left = 0
    for run in range(100):
        wrong = np.cumsum(np.random.default_rng(run).random(400) < share)
        intervals = [Tally(n, int(wrong[n - 1])).interval(0.95) for n in range(1, 401, 7)]
        left += any(not low <= share <= high for low, high in intervals)
    assert left <= 5 + 3 * 2.2  # the expected most, and three standard deviations of a hundred runs


def test_wrong_hits_beyond_the_limit_tighten() -> None:
    assert Bound(hits=Tally(100, 1)).move(0.01, 0.95) == 0
    assert Bound(hits=Tally(40, 4)).move(0.01, 0.95) == 1
    assert Bound(hits=Tally(40, 4)).move(0.2, 0.95) == 0


def test_near_misses_that_were_right_loosen_down_to_an_end() -> None:
    near = Tally(2000, 2)
    assert Bound(near=Tally(100)).move(0.01, 0.95) == 0
    assert Bound(near=near).move(0.01, 0.95) == -1
    assert Bound(LOOSEST, near=near).move(0.01, 0.95) == 0


def test_a_scope_and_all_scopes_are_together_no_looser_than_either_may_be() -> None:
    near = Tally(2000, 2)
    assert Bound(-2, near=near).move(0.01, 0.95, others=-2) == -1
    assert Bound(-2, near=near).move(0.01, 0.95, others=LOOSEST + 2) == 0
    assert total(-2, LOOSEST) == LOOSEST


def test_a_scope_that_was_looser_than_that_is_a_step_stricter_by_one_move() -> None:
    bound, others = Bound(-4, Tally(40, 4)), -4
    assert total(bound.steps + bound.move(0.01, 0.95, others), others) == LOOSEST + 1


def test_wrong_hits_weigh_more_than_near_misses() -> None:
    assert Bound(hits=Tally(40, 4), near=Tally(2000, 2)).move(0.01, 0.95) == 1


def test_a_move_starts_the_counts_anew() -> None:
    assert Bound(1, Tally(40, 4), Tally(3, 1)).moved(1) == Bound(2)
