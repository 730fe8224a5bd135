"""Where the requests of a log go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.replay.costs import costs_of
from app.replay.figures import figures
from app.replay.routes import routes_of
from tests.app.replay.made import NOON, changed, replayed, simulation
from tests.fakes import CONFIG

REDIS = {"redis": {"embedded": True}}
TIERS = CONFIG.model_dump(exclude_defaults=True)["tiers"]


def reasons(of: Any, config: Any = CONFIG) -> list[tuple[int, str]]:
    routes = routes_of(of, config)
    return [
        (int(tier), routes.reason.names[reason]) for tier, reason in zip(routes.tier, routes.reason.index, strict=True)
    ]


def test_the_score_picks_the_tier() -> None:
    routes = routes_of(replayed(3, score=[0.1, 0.3, 0.9]), CONFIG)
    assert routes.tier.tolist() == [0, 1, 2]
    assert routes.free.all()


def test_requests_with_tools_go_to_a_tier_that_takes_them_wherever_the_cut_points_are() -> None:
    config = changed(tiers=[{**TIERS[0], "abilities": []}, *TIERS[1:]])
    of = replayed(3, score=[0.1, 0.1, 0.9], abilities=["", "tools", "tools"])
    assert reasons(of, config) == [(0, "score"), (1, "tools"), (2, "score")]
    assert routes_of(of, config).free.tolist() == [True, False, False]


def test_what_no_tier_takes_is_reckoned_by_the_best_one_and_said() -> None:
    config = changed(tiers=[{**tier, "abilities": []} for tier in TIERS])
    of = replayed(2, score=[0.1, 0.1], abilities=["", "vision"])
    assert reasons(of, config)[1] == (2, "unsupported")
    assert any("1 requests need" in line for line in figures(simulation(of, config))["assumptions"])


def test_a_prompt_too_long_for_a_tier_goes_to_the_next() -> None:
    config = changed(tiers=[{**TIERS[0], "context_tokens": 1000}, *TIERS[1:]])
    assert reasons(replayed(2, score=[0.1, 0.1], needed_tokens=[900, 1100]), config) == [(0, "score"), (1, "context")]


def test_a_tenant_has_its_own_bounds() -> None:
    bounds = {"a": {"floor": "mid"}, "b": {"ceiling": "mid"}, "c": {"cuts": [0.05, 0.1]}}
    of = replayed(4, score=[0.1, 0.9, 0.2, 0.2], tenants=["a", "b", "c", "d"])
    config = changed(routing={"tenants": bounds})
    assert reasons(of, config) == [(1, "floor"), (1, "ceiling"), (2, "score"), (0, "score")]
    assert routes_of(of, config).free.tolist() == [False, False, False, True]


def test_a_profile_permits_its_tiers_alone() -> None:
    config = changed(profiles={"deep": {"tiers": ["top"]}})
    assert reasons(replayed(2, score=[0.1, 0.1], profiles=["deep", ""]), config) == [(2, "profile"), (0, "score")]


@pytest.mark.parametrize(("more", "tier"), [(REDIS, 2), ({}, 0), ({**REDIS, "routing": {"conversation_ttl_s": 60}}, 0)])
def test_a_conversation_does_not_fall_below_the_tier_it_has_reached(more: dict[str, Any], tier: int) -> None:
    begun, continued = np.array([0, 7, 9], np.uint64), np.array([7, 9, 0], np.uint64)
    of = replayed(3, score=[0.9, 0.1, 0.1], begun=begun, continued=continued)
    assert [place for place, _ in reasons(of, changed(**more))] == [2, tier, tier]


def test_a_hit_by_meaning_leads_the_conversation_to_the_tier_that_had_answered() -> None:
    begun, continued = np.array([0, 0, 7], np.uint64), np.array([0, 7, 0], np.uint64)
    of = replayed(
        3,
        score=[0.9, 0.1, 0.1],
        begun=begun,
        continued=continued,
        reasons=["miss x", "hit verified", "miss x"],
        served=[-1, 0, -1],
    )
    assert reasons(of, changed(**REDIS))[2] == (2, "conversation")


def test_times_and_not_places_in_the_log_say_what_came_first() -> None:
    begun, continued = np.array([7, 0], np.uint64), np.array([0, 7], np.uint64)
    of = replayed(2, score=[0.1, 0.9], begun=begun, continued=continued, time=[NOON + 60, NOON])
    assert reasons(of, changed(**REDIS)) == [(2, "conversation"), (2, "score")]


def test_the_share_of_the_best_tier_is_held() -> None:
    of = replayed(2000, score=np.random.default_rng(0).random(2000))
    config = changed(routing={"top_share": 0.1})
    late = routes_of(of, config).tier[1000:]
    assert (late == 2).mean() == pytest.approx(0.1, abs=0.03)
    assert "share" in figures(simulation(of, config))["routes"]


def test_every_request_has_the_price_of_its_tier() -> None:
    of = replayed(3, score=[0.1, 0.5, 0.9])
    costs = costs_of(of, CONFIG)
    assert costs.tier.tolist() == [0, 1, 2]
    assert costs.unshaped_usd == pytest.approx(costs.tier_usd[np.arange(3), costs.tier])
