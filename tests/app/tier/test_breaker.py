"""The breaker: when it opens, who tries, and what it hears from other replicas."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cache import RedisConfig
from app.embedded_redis import EmbeddedRedis
from app.tier.breaker import Breaker, State
from app.tier.config import BreakerConfig
from app.tier.shared import SharedBreakers
from tests.app.tier.targets import Clock, ScriptedProvider, target

CONFIG = BreakerConfig(failures=3, open_s=10, max_open_s=25)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(CONFIG, clock)


def state(breaker: Breaker) -> State:
    """Ask anew: a type checker takes a property that was compared for settled."""
    return breaker.state


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.allows()
        breaker.failed()


def test_failures_in_a_row_open_it_and_a_success_between_them_starts_anew(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert state(breaker) == "closed"
    fail(breaker, 1)
    assert state(breaker) == "open"
    assert not breaker.allows()


def test_after_a_while_one_request_tries_and_closes_it_if_it_succeeds(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    assert state(breaker) == "half-open"
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert state(breaker) == "closed"
    assert breaker.allows()


def test_it_stays_open_twice_as_long_each_time_the_try_fails_up_to_a_longest_time(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    for length_s in (10, 20, 25, 25):
        clock.now += length_s - 0.1
        assert state(breaker) == "open"
        clock.now += 0.1
        fail(breaker, 1)


def test_a_try_that_was_cancelled_lets_the_next_request_try(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    assert breaker.allows()
    breaker.released()
    assert breaker.allows()


def test_a_try_that_takes_longer_than_the_first_pause_does_not_keep_others_from_trying(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += 10
    assert breaker.allows()
    clock.now += 10
    assert [breaker.allows() for _ in range(2)] == [True, False]


def test_while_it_is_to_try_it_heeds_another_replica_whose_try_failed(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    breaker.heard(clock.now + 20)
    assert (state(breaker), breaker.allows()) == ("open", False)
    breaker.heard(clock.now + 60)
    clock.now += 20
    assert breaker.allows()


@pytest.mark.redis
async def test_replicas_tell_one_another_what_opened_and_what_closed(tmp_path: Path) -> None:
    clock = Clock()
    with EmbeddedRedis(tmp_path, persistent=False) as redis:
        replicas = [{"small": target(ScriptedProvider(), clock=clock)} for _ in range(2)]
        stores = [RedisConfig().build(url=redis.url) for _ in replicas]
        shared = [
            SharedBreakers("mid", targets, store, clock, clock) for targets, store in zip(replicas, stores, strict=True)
        ]
        first, second = (targets["small"].breaker for targets in replicas)
        fail(first, 5)
        for one in shared:
            await one.exchange()
        assert (state(first), state(second)) == ("open", "open")
        clock.now += 5
        assert second.allows()
        second.succeeded()
        await shared[1].exchange()
        await shared[0].exchange()
        assert state(first) == "half-open"  # it tries for itself, and opens nobody's anew
        await shared[1].exchange()
        assert state(second) == "closed"
        for store in stores:
            await store.close()
