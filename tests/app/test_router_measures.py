"""RouteLLM's measures, savings and the bracket around a cascade, on made-up outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from app.benchmark.router_measures import (
    average_gap_recovered,
    call_threshold,
    cascaded,
    gap_recovered,
    placed,
    saved,
    strong_calls,
)
from app.classifier.calibration import Outcomes

ONE_IN_FOUR = np.array(
    [0.0, 1, 1, 1] * 50
)  # what the weak model's answers were worth; the strong one's are all worth 1
STRONG = np.ones(200)
PRICES = np.tile([0.0, 1.0, 10.0], (4, 1))


def test_a_perfect_score_of_a_gap_that_one_prompt_makes_has_an_apgr_of_one() -> None:
    weak = np.ones(1000)
    weak[17] = 0
    assert average_gap_recovered(-weak, weak, np.ones(1000)) == pytest.approx(1, abs=0.001)
    assert average_gap_recovered(weak, weak, np.ones(1000)) == pytest.approx(0, abs=0.001)


def test_a_perfect_score_recovers_the_gap_with_as_many_strong_calls_as_there_are_prompts_that_gain() -> None:
    assert call_threshold(-ONE_IN_FOUR, ONE_IN_FOUR, STRONG, 1.0) == pytest.approx(0.25)
    assert average_gap_recovered(-ONE_IN_FOUR, ONE_IN_FOUR, STRONG) == pytest.approx(1 - 0.25 / 2)


def test_a_score_that_says_nothing_recovers_as_much_of_the_gap_as_its_share_of_calls() -> None:
    same = np.zeros(200)
    assert average_gap_recovered(same, ONE_IN_FOUR, STRONG) == pytest.approx(0.5)
    assert call_threshold(same, ONE_IN_FOUR, STRONG, 0.8) == pytest.approx(0.8)
    random = [average_gap_recovered(np.random.default_rng(i).random(200), ONE_IN_FOUR, STRONG) for i in range(200)]
    assert np.mean(random) == pytest.approx(0.5, abs=0.01)


def test_the_call_threshold_is_the_first_share_of_calls_that_recovers_so_much() -> None:
    # the hardest by score gains, the next loses, the third and fourth gain: 1/2, 0, 1/2, 1 of the gap
    scores = np.array([4.0, 3, 2, 1])
    weak, strong = np.array([0.0, 1, 0, 0]), np.array([1.0, 0, 1, 1])
    share, recovered = gap_recovered(scores, weak, strong)
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert recovered.tolist() == [0, 0.5, 0, 0.5, 1]
    assert call_threshold(scores, weak, strong, 0.5) == pytest.approx(0.25)
    assert call_threshold(scores, weak, strong, 0.8) == pytest.approx(0.75 + 0.25 * 0.6)


def test_where_the_strong_model_is_no_better_there_is_no_gap_to_recover() -> None:
    assert strong_calls(np.array([0.0, 1, 2, 3]), np.ones(4), np.array([1.0, 1, 1, 0])) == {}


def test_the_interval_holds_the_figure() -> None:
    figures = strong_calls(np.random.default_rng(1).random(200), ONE_IN_FOUR, STRONG)
    low, high = figures["apgr_95"]
    assert low < figures["apgr"] < high
    assert low > 0.3
    assert high < 0.7


def test_prompts_are_placed_by_the_cut_points_and_hard_ones_in_the_small_tier_are_counted() -> None:
    figures = placed(np.array([0.1, 0.3, 0.2, 0.9]), (0.3, 0.7), np.array([0, 1, 2, 2]))
    assert (figures["right_tier"], figures["hard_to_small"]) == (0.75, 1)
    assert (figures["auc_small_suffices"], figures["auc_large_needed"]) == (1.0, 0.75)
    assert figures["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_a_score_that_finds_the_prompts_that_need_the_top_tier_saves_the_price_of_the_others() -> None:
    quality = np.array([[1.0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 1]])
    found = saved(Outcomes(np.array([0.1, 0.2, 0.3, 0.9]), quality, PRICES))
    assert found["saved"] == pytest.approx(0.75)
    assert found["usd_per_1k"] == sorted(found["usd_per_1k"])
    # whoever asks the top tier for the hard one asks it for all
    assert saved(Outcomes(np.array([0.9, 0.8, 0.7, 0.1]), quality, PRICES))["saved"] == pytest.approx(0)


def test_a_cascade_is_bracketed_by_a_check_that_keeps_every_cheap_answer_and_one_that_keeps_the_good() -> None:
    quality = np.array([[1.0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1]])
    outcomes = Outcomes(np.array([0.1, 0.75, 0.75, 0.95]), quality, PRICES)  # local, and three at the top tier
    figures = cascaded(outcomes, (0.3, 0.7), 0.1)
    assert (figures["tried"], figures["quality_kept"]) == (0.5, 1.0)
    assert figures["keeps_all"] == {"saved": 0.6, "quality_kept": 0.75}  # 1 + 1 + 10 in place of 30
    assert figures["keeps_the_good"] == {"saved": round(1 - 22 / 30, 4), "quality_kept": 1.0}  # 1 + (1 + 10) + 10
