"""The comparison of a canary with the stable side: its figures, its intervals, its verdicts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.compare import Estimate, compared, difference, latency, mean, ratio, share, table
from app.ledger.record import Record
from app.ledger.rollup import bucket, rolled_up


def record(arm: str, **fields: Any) -> Record:
    plain = {"tenant": "acme", "tier": "mid", "model": "medium", "cache": "miss", "latency_s": 0.1}
    return Record(time=0.0, arm=arm, **{**plain, **fields})


def comparison(*records: Record) -> dict[str, Any]:
    return compared((hour, group, counters) for (hour, group), counters in rolled_up(records).items())


def test_each_side_has_its_own_figures() -> None:
    found = comparison(
        *(record("stable", cost_usd=0.002, without_usd=0.004) for _ in range(100)),
        *(record("canary", cost_usd=0.001, without_usd=0.004, tier="local", latency_s=0.05) for _ in range(50)),
        *(record("canary", without_usd=0.004, tier="cache", cache="hit") for _ in range(50)),
        *(record("", cost_usd=5) for _ in range(9)),
        record("canary", kind="audit", cost_usd=0.5),
    )
    arms, figures = found["arms"], found["figures"]
    assert (arms["stable"]["requests"], arms["canary"]["requests"]) == (100, 100)
    assert (arms["canary"]["cost_usd"], arms["canary"]["checks_usd"]) == (0.05, 0.5)
    assert arms["canary"]["saved_usd"] == pytest.approx(0.4 - 0.05 - 0.5)
    assert figures["cost_usd_per_request"]["canary"][0] == pytest.approx(0.0005)
    assert [figures["saved_share"][arm][0] for arm in ("stable", "canary")] == pytest.approx([0.5, 0.875])
    assert [figures["hit_rate"][arm][0] for arm in ("stable", "canary")] == [0.0, 0.5]
    assert (figures["tier local"]["stable"], figures["tier local"]["canary"][0]) == (None, 0.5)
    assert figures["hit_rate"]["beyond_chance"]
    assert not figures["without_usd_per_request"]["beyond_chance"]


def test_clients_that_left_are_no_errors() -> None:
    lost = [record("canary", error=error, finished=False) for error in ("client_gone", "upstream_error")]
    assert comparison(*lost)["figures"]["error_rate"]["canary"][0] == 0.5


def test_a_side_without_requests_has_no_figures_and_there_is_no_verdict() -> None:
    found = comparison(record("stable"))
    assert found["arms"]["canary"]["requests"] == 0
    assert {row["canary"] for row in found["figures"].values()} == {None}
    assert {row["beyond_chance"] for row in found["figures"].values()} == {None}
    assert "-" in table(found)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_of_a_share_holds_it_and_stays_a_share(count: int, more: int) -> None:
    found = share(count, count + more)
    assert -1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = share(10, 100)
    assert (found.low, found.high) == pytest.approx((0.05523, 0.17437), abs=1e-5)


ESTIMATES = (
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted).map(lambda e: Estimate(e[1], e[0], e[2]))
)


@given(ESTIMATES, ESTIMATES)
def test_a_difference_turns_its_sign_with_its_sides(one: Estimate, other: Estimate) -> None:
    found, turned = difference(one, other), difference(other, one)
    assert (found.value, found.low, found.high) == pytest.approx((-turned.value, -turned.high, -turned.low))
    assert found.low <= found.value <= found.high


def beyond(draws: random.Random, stable: float, canary: float) -> bool:
    """Whether two drawn sides of 400 requests, hits with these odds, differ beyond chance."""
    counts = [sum(draws.random() < odds for _ in range(400)) for odds in (stable, canary)]
    found = difference(*(share(count, 400) for count in counts))
    return not found.low <= 0 <= found.high


def test_sides_that_are_alike_differ_beyond_chance_one_time_in_twenty() -> None:
    draws = random.Random(7)
    assert sum(beyond(draws, 0.3, 0.3) for _ in range(600)) <= 600 * 0.05 + 3 * (600 * 0.05 * 0.95) ** 0.5
    assert sum(beyond(draws, 0.3, 0.5) for _ in range(100)) >= 95


def test_the_intervals_of_a_mean_and_of_a_ratio_hold_the_truth_nineteen_times_in_twenty() -> None:
    draws, means, ratios = random.Random(3), 0, 0
    for _ in range(400):
        without = [draws.expovariate(1.0) for _ in range(300)]
        cost = [one * draws.choice((0, 0.8)) for one in without]
        squares = (sum(c * c for c in cost), sum(w * w for w in without), sum(map(lambda c, w: c * w, cost, without)))
        of_mean, of_ratio = mean(sum(cost), squares[0], 300), ratio(sum(cost), sum(without), squares, 300)
        means += of_mean.low <= 0.4 <= of_mean.high
        ratios += of_ratio.low <= 0.4 <= of_ratio.high
    assert min(means, ratios) >= 400 * 0.95 - 3 * (400 * 0.05 * 0.95) ** 0.5


def test_the_interval_of_a_quantile_narrows_with_what_it_is_of() -> None:
    few, many = ({bucket(0.1): n, bucket(0.2): n, bucket(0.4): n} for n in (5, 500))
    wide, narrow = latency(few, 0.5), latency(many, 0.5)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert 100 < narrow.value < 200
