"""How many replicas a load calls for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.scaling import LoadLimits, Meter, by_limits, by_load

LIMITS = LoadLimits(max_waiting=4, target_use=0.8)
shares = st.floats(0, 1)
counts = st.floats(0, 1e4)
replicas_ = st.integers(1, 100)


@pytest.mark.parametrize(
    ("waiting", "uses", "replicas", "wanted"),
    [
        (0, [0.8, 0.8], 2, 2),  # as intended
        (0, [1.0, 1.0, 1.0, 1.0], 4, 5),  # full, though nothing waits
        (0, [0.2, 0.2, 0.2, 0.2], 4, 1),
        (8, [0.4, 0.4], 2, 1),  # four a replica may wait
        (12, [0.4, 0.4], 2, 3),
        (1000, [1.0, 1.0], 2, 4),  # never more than twice as many at once
        (0, [0.4], 2, 1),  # the other one has not said anything yet
    ],
)
def test_a_load_calls_for_replicas(waiting: float, uses: list[float], replicas: int, wanted: float) -> None:
    assert by_load(waiting, uses, replicas, LIMITS) == pytest.approx(wanted)


@given(counts, counts, st.lists(shares, min_size=1, max_size=20), replicas_)
def test_more_that_waits_never_calls_for_fewer(a: float, b: float, uses: list[float], replicas: int) -> None:
    assert by_load(min(a, b), uses, replicas, LIMITS) <= by_load(max(a, b), uses, replicas, LIMITS)


@given(counts, shares, shares, replicas_)
def test_more_in_use_never_calls_for_fewer(waiting: float, a: float, b: float, replicas: int) -> None:
    fewer, more = (by_load(waiting, [use], replicas, LIMITS) for use in (min(a, b), max(a, b)))
    assert fewer <= more


@given(st.floats(0, 4), replicas_)
def test_what_is_as_intended_stays(waiting: float, replicas: int) -> None:
    assert by_load(waiting * replicas * 0.99, [0.8] * replicas, replicas, LIMITS) == pytest.approx(replicas)


@pytest.mark.parametrize(
    ("ongoing", "used", "replicas", "wanted"),
    [
        (256, 0.0, 1, 4),  # no limits
        (256, 0.5, 1, 2),  # a second one would use them up
        (256, 1.0, 2, 2),  # nothing is left for a third
        (64, 1.0, 2, 1),
        (0, 1.0, 2, 0),
    ],
)
def test_an_api_tier_grows_by_requests_as_far_as_its_limits_go(
    ongoing: float, used: float, replicas: int, wanted: float
) -> None:
    assert by_limits(ongoing, used, replicas, target_ongoing=64) == wanted


@given(counts, shares, replicas_)
def test_a_limit_holds_growth_back_and_never_shrinks_what_is_needed(ongoing: float, used: float, replicas: int) -> None:
    needed = ongoing / 64
    wanted = by_limits(ongoing, used, replicas, target_ongoing=64)
    assert min(needed, replicas) <= wanted <= needed


@pytest.mark.parametrize("fields", [{"max_waitin": 3}, {"max_waiting": 0}, {"target_use": 1.5}])
def test_limits_that_mean_nothing_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        LoadLimits.model_validate(fields)


def test_a_meter_tells_what_waits_from_what_is_worked_on_and_how_long_that_took() -> None:
    now = 0.0
    meter = Meter(lambda: now)
    with meter.here(), meter.here(), meter.here():
        assert meter.read() == {"waiting": 3.0, "use": 0.0}
        now = 2.0
        with meter.working(2):
            now = 3.0
            assert meter.read() == {"waiting": 1.0, "use": pytest.approx(1 / 3)}
            now = 4.0
        now = 5.0
        assert meter.read() == {"waiting": 3.0, "use": pytest.approx(1 / 2)}
    assert meter.read()["waiting"] == 0.0
