"""The intervals of a replay's figures."""

from __future__ import annotations

import numpy as np
import pytest

from app.replay.intervals import intervals, lost
from tests.app.replay.made import changed, replayed, simulation
from tests.fakes import CONFIG


def test_every_figure_lies_within_its_interval() -> None:
    reasons = ["miss x", "hit exact", "miss x", "miss x", "hit verified"] * 80
    score = np.random.default_rng(0).random(400).tolist()
    found = intervals(simulation(replayed(400, reasons=reasons, score=score, ok=[True] * 399 + [False])))
    tiers = found.pop("tiers")
    assert set(tiers) == {tier.name for tier in CONFIG.tiers}
    for expected, low, high in (*found.values(), *tiers.values()):
        assert low <= expected <= high
    assert found["hit_rate"][0] == 0.4


def test_bursts_make_an_interval_wider_than_the_same_hits_one_by_one() -> None:
    def width(reasons: list[str]) -> float:
        _, low, high = intervals(simulation(replayed(1000, reasons=reasons)))["hit_rate"]
        return float(high - low)

    assert width((["hit exact"] * 50 + ["miss x"] * 50) * 10) > 3 * width(["hit exact", "miss x"] * 500)


def test_an_interval_gets_narrower_with_the_length_of_the_log() -> None:
    def width(rows: int) -> float:
        draw = np.random.default_rng(0).random(rows)
        of = replayed(rows, reasons=["hit exact" if one < 0.3 else "miss x" for one in draw])
        _, low, high = intervals(simulation(of))["hit_rate"]
        return float(high - low)

    assert width(4000) < 0.6 * width(1000)


def test_a_machine_that_is_now_faster_now_slower_widens_the_interval_of_the_latency() -> None:
    def found(own_error: float) -> tuple[list[float], list[float]]:
        config = changed(replay={"miss_s": 1.0, "own_error": own_error})
        figures = intervals(simulation(replayed(1000), config))
        return figures["mean_s"], figures["latency_ratio"]

    (mean, low, high), ratio = found(0.2)
    assert [mean - low, high - mean] == pytest.approx([0.2, 0.2], rel=0.1)
    sure_mean, sure_ratio = found(0.0)
    assert (sure_mean[0], sure_ratio[0]) == (mean, ratio[0])
    assert sure_mean[2] - sure_mean[1] < 0.01
    assert ratio[2] - ratio[1] > sure_ratio[2] - sure_ratio[1]


def test_tokens_are_cut_by_the_shape_of_routed_requests_alone() -> None:
    of = replayed(
        10,
        profiles=["short"] * 10,
        reasons=["miss x"] * 5 + ["hit exact"] * 5,
        completion_tokens=[40.0] * 5 + [1000.0] * 5,
    )
    config = changed(profiles={"short": {"max_tokens": 10}}, replay={"profile_answer_tokens": {"short": 10}})
    assert intervals(simulation(of, config))["token_cut"][0] == pytest.approx(0.75)


def test_a_request_is_lost_once_every_call_of_its_tier_and_the_stronger_ones_has_failed() -> None:
    made = simulation(replayed(2, score=[0.1, 0.9]))
    assert lost(made, 0.5) == pytest.approx(0.5**9 + 0.5**3)  # three tiers of one target, each asked three times
    assert lost(made, 0.0) == 0


def test_reliability_allows_for_as_many_losses_as_chance_may_bring() -> None:
    of = replayed(1000, ok=[False] * 300 + [True] * 700, score=[0.9] * 1000)
    expected, low, high = intervals(simulation(of))["reliability"]
    assert expected == pytest.approx(1 - 0.3**3, abs=1e-5)
    assert low < expected - 0.008
    assert expected + 0.008 < high <= 1
