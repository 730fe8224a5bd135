from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from app.cache.bound import LOOSEST, Bound, Tally
from app.cache.bounds import EVERYWHERE, RedisBounds
from app.cache.store import RedisConfig, RedisStore
from app.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.redis


@pytest.fixture
async def store(redis: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    store = RedisConfig().build(url=redis.url)
    await store.run(lambda client: client.flushall())
    yield store
    await store.close()


async def test_checks_are_counted_by_scope_and_over_all(store: RedisStore) -> None:
    bounds = RedisBounds(store, 0.01, 0.95)
    await bounds.add("a", "hits", True)
    await bounds.add("a", "near", False)
    await bounds.add("b", "hits", False)
    await bounds.add("b", "hits", True, everywhere=False)
    assert await bounds.read("a") == Bound(0, Tally(1, 0), Tally(1, 1))
    assert await bounds.read("b") == Bound(0, Tally(2, 1), Tally())
    assert await bounds.read(EVERYWHERE) == Bound(0, Tally(2, 1), Tally(1, 1))


async def test_a_scope_with_too_many_wrong_hits_tightens_alone(store: RedisStore) -> None:
    bounds = RedisBounds(store, 0.01, 0.95)
    moved = [(await bounds.add("bad", "hits", i % 4 > 0, everywhere=False))[1] for i in range(12)]
    assert 1 in {step for step, _ in moved}
    bad = await bounds.read("bad")
    assert bad.steps >= 1
    assert bad.hits.checked < 12
    reader = RedisBounds(store, 0.01, 0.95)
    reader.steps("bad")  # reads in the background
    assert reader._reading is not None
    await reader._reading
    assert (reader.steps("bad"), reader.steps("good")) == (bad.steps, 0)


async def test_what_is_wrong_everywhere_tightens_every_scope(store: RedisStore) -> None:
    """One check a scope says nothing of any scope, and much of all."""
    bounds = RedisBounds(store, 0.01, 0.95)
    moved = [(await bounds.add(f"scope-{i}", "hits", i % 5 > 0))[1] for i in range(40)]
    assert {step for step, _ in moved} == {0}
    assert (await bounds.read(EVERYWHERE)).steps >= 1


async def test_near_misses_that_were_right_loosen_a_step_and_no_further_by_way_of_all_scopes(store: RedisStore) -> None:
    bounds = RedisBounds(store, 0.1, 0.95)
    moves = [(await bounds.add("only", "near", True))[1] for _ in range(200)]
    moved = [i for i, steps in enumerate(moves, 1) if any(steps)][:-LOOSEST]
    assert {moves[i - 1] for i in moved} == {(-1, 0)}
    assert moved == [moved[0] * times for times in range(1, 1 - LOOSEST)]  # each step takes as many checks


async def test_near_misses_of_many_scopes_loosen_all_and_start_the_counts_of_each_anew(store: RedisStore) -> None:
    bounds = RedisBounds(store, 0.1, 0.95)
    for i in range(100):
        bound, moved = await bounds.add(f"scope-{i % 10}", "near", True)
        if any(moved):
            break
    assert (moved, bound) == ((0, -1), Bound(-1))
    assert [await bounds.read(f"scope-{i}") for i in range(10)] == [Bound()] * 10
    await bounds.add("scope-0", "near", False)
    assert await bounds.read("scope-0") == Bound(near=Tally(1, 1))


async def test_a_scope_is_no_looser_than_the_loosest_however_all_scopes_stand(store: RedisStore) -> None:
    steps = {"a": LOOSEST, EVERYWHERE: LOOSEST}
    await store.run(lambda client: client.hset("tw:bounds", mapping=steps))
    bounds = RedisBounds(store, 0.01, 0.95)
    bounds.steps("a")  # reads in the background
    assert bounds._reading is not None
    await bounds._reading
    assert bounds.steps("a") == LOOSEST


async def test_the_bound_settles_where_the_limit_is_kept(store: RedisStore) -> None:
    """Hits are wrong in 10 % at the calibrated threshold and half as often at each step above: 1 % takes four."""
    bounds, draw = RedisBounds(store, 0.01, 0.95), random.Random(0)
    steps = 0
    for _ in range(3000):
        _, (step, _) = await bounds.add("s", "hits", draw.random() >= 0.1 * 0.5**steps, everywhere=False)
        steps += step
    assert 2 <= steps <= 5
    assert (await bounds.read("s")).steps == steps


async def test_two_replicas_that_see_the_same_counts_move_once(store: RedisStore) -> None:
    first = RedisBounds(store, 0.01, 0.95)
    for _ in range(2):
        await store.run(lambda client: client.hincrby("tw:{s}:b", "hits", 1))
        await store.run(lambda client: client.hincrby("tw:{s}:b", "hits-wrong", 1))
    _, (step, _) = await first.add("s", "hits", False, everywhere=False)
    again = await store.run(lambda client: client.delete("tw:{s}:b"))
    assert (step, again) == (1, 0)
