from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from app.cache import CacheConfig, RedisConfig, RedisSemanticCache, RedisStore, cache_key
from app.cache.store import Limits
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError, ConfigError
from app.schema import CacheEntry, CacheKey, Embedding
from tests.fakes import answer, chat

pytestmark = pytest.mark.redis
ENTRY = CacheEntry("hello", answer("Hi."), "local")
EAST, NORTH, NORTHEAST = (1.0, 0.0), (0.0, 1.0), (0.6, 0.8)


@pytest.fixture
async def store(redis: EmbeddedRedis, client: Redis) -> AsyncIterator[RedisStore]:
    store = RedisConfig(timeout_s=5).build(lambda tenant: Limits(60), redis.url)
    yield store
    await store.close()


def key(text: str = "hello", tenant: str = "acme") -> CacheKey:
    return cache_key(chat(text).body, tenant)


def vector(direction: tuple[float, ...], space: str = "plane") -> Embedding:
    return Embedding(space, np.array(direction, "<f4").tobytes())


async def test_what_was_put_is_got_as_it_was(store: RedisStore) -> None:
    await store.put(key(), ENTRY, None)
    assert await store.get(key()) == ENTRY


async def test_another_text_and_another_tenant_get_nothing(store: RedisStore) -> None:
    await store.put(key(), ENTRY, None)
    assert await store.get(key("goodbye")) is None
    assert await store.get(key(tenant="globex")) is None


async def test_the_last_answer_put_is_the_one_got(store: RedisStore) -> None:
    later = CacheEntry("hello", answer("Good day."), "top")
    await store.put(key(), ENTRY, vector(EAST))
    await store.put(key(), later, vector(EAST))
    assert await store.get(key()) == later
    assert len(await store.nearest(key(), vector(EAST), 4)) == 1


async def test_the_nearest_come_first_with_their_cosine(store: RedisStore) -> None:
    for text, direction in {"east": EAST, "north": NORTH, "northeast": NORTHEAST}.items():
        await store.put(key(text), ENTRY, vector(direction))
    candidates = await store.nearest(key("?"), vector(NORTH), 4)
    assert [candidate.entry for candidate in candidates] == [key(t).entry for t in ("north", "northeast", "east")]
    assert [candidate.similarity for candidate in candidates] == pytest.approx([1, 0.8, 0], abs=0.02)
    assert len(await store.nearest(key("?"), vector(NORTH), 2)) == 2


async def test_another_scope_or_space_finds_nothing(store: RedisStore) -> None:
    await store.put(key(), ENTRY, vector(EAST))
    assert await store.nearest(key(), vector(EAST), 4)
    assert await store.nearest(key(tenant="globex"), vector(EAST), 4) == []
    assert await store.nearest(key(), vector(EAST, "another space"), 4) == []


async def test_an_answer_without_an_embedding_is_not_found_by_meaning(store: RedisStore) -> None:
    await store.put(key(), ENTRY, None)
    assert await store.nearest(key(), vector(EAST), 4) == []


async def test_a_candidate_is_fetched(store: RedisStore) -> None:
    await store.put(key(), ENTRY, vector(EAST))
    (candidate,) = await store.nearest(key(), vector(EAST), 4)
    assert await store.fetch(key(), [candidate]) == [ENTRY]
    assert await store.fetch(key(), []) == []


async def test_an_entry_is_forgotten_for_the_tenant_it_was_stored_for_alone(store: RedisStore) -> None:
    await store.put(key(), CacheEntry("hello", answer("Hi."), "local", "acme"), vector(EAST))
    assert not await store.forget(key(), "globex")
    assert await store.get(key()) is not None
    assert await store.forget(key(), "acme")
    assert await store.get(key()) is None
    assert not await store.forget(key(), "acme")


async def test_entries_and_vectors_expire(redis: EmbeddedRedis, client: Redis) -> None:
    store = RedisConfig(timeout_s=5).build(lambda tenant: Limits(1), redis.url)
    await store.put(key(), ENTRY, vector(EAST))
    assert await store.get(key()) == ENTRY
    await asyncio.sleep(1.2)
    assert await store.get(key()) is None
    assert await client.keys("tw:{*") == []
    await store.close()


async def test_the_vector_of_an_expired_entry_is_removed_when_it_is_found(store: RedisStore, client: Redis) -> None:
    await store.put(key("north"), ENTRY, vector(NORTH))
    await store.put(key("east"), ENTRY, vector(EAST))
    await client.delete(*await client.keys(f"*:e:{key('north').entry}"))  # what its TTL does
    candidates = await store.nearest(key("?"), vector(NORTH), 4)
    assert await store.fetch(key("?"), candidates) == [None, ENTRY]
    assert [c.entry for c in await store.nearest(key("?"), vector(NORTH), 4)] == [key("east").entry]


async def test_the_least_recently_used_entry_goes_when_a_scope_is_full(redis: EmbeddedRedis, client: Redis) -> None:
    store = RedisConfig(timeout_s=5).build(lambda tenant: Limits(60, 3), redis.url)
    for i, text in enumerate(("one", "two", "three")):
        await store.put(key(text), ENTRY, vector((1.0, float(i))))
    assert await store.get(key("one")) == ENTRY
    await store.flush()
    await store.put(key("four"), ENTRY, vector((1.0, 3.0)))
    assert [await store.get(key(text)) is not None for text in ("one", "two", "three", "four")] == [
        True,
        False,
        True,
        True,
    ]
    assert len(await store.nearest(key(), vector(EAST), 9)) == 3
    await store.put(key("one", "globex"), ENTRY, vector(EAST))  # another scope has a limit of its own
    assert await store.get(key("three")) == ENTRY
    await store.close()


async def test_each_tenant_has_its_own_time_to_live(redis: EmbeddedRedis, client: Redis) -> None:
    limits = CacheConfig.model_validate({"ttl_s": 100, "tenants": {"acme": {"ttl_s": 10}, "initech": {}}}).limits
    store = RedisConfig(timeout_s=5).build(limits, redis.url)
    for tenant, ttl in (("acme", 10), ("globex", 100), ("initech", 100)):
        await store.put(key("hello", tenant), CacheEntry("hello", answer("Hi."), "local", tenant), None)
        name = f"tw:{{{key('hello', tenant).scope}}}:e:{key('hello', tenant).entry}"
        assert ttl - 2 < await client.ttl(name) <= ttl
    await store.close()


async def test_an_entry_of_another_version_is_as_good_as_none(store: RedisStore, client: Redis) -> None:
    await store.put(key(), ENTRY, None)
    (name,) = await client.keys("*:e:*")
    await client.set(name, b'{"text": "hello", "written": "long ago"}')
    assert await store.get(key()) is None


async def test_a_redis_that_is_gone_is_an_error_and_works_again_when_it_is_back(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, persistent=False)
    server.start()
    store = RedisConfig(timeout_s=5, retry_after_s=0.05).build(lambda tenant: Limits(60), server.url)
    await store.put(key(), ENTRY, None)
    os.kill(int((tmp_path / "redis.pid").read_text()), signal.SIGKILL)
    for call in (store.get(key()), store.put(key(), ENTRY, None), store.nearest(key(), vector(EAST), 4), store.ping()):
        with pytest.raises(CacheUnavailableError):
            await call
    server.stop()
    with server:
        await store.ping()
        await store.put(key(), ENTRY, None)
        assert await store.get(key()) == ENTRY
    await store.close()


async def test_a_redis_that_hangs_costs_its_timeout_once(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, persistent=False) as server:
        store = RedisConfig(timeout_s=0.5, retry_after_s=30).build(lambda tenant: Limits(60), server.url)
        await store.ping()
        pid = int((tmp_path / "redis.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(CacheUnavailableError, match="Timeout"):
                await store.get(key())
            with pytest.raises(CacheUnavailableError, match="a moment ago"):
                await store.get(key())
        finally:
            os.kill(pid, signal.SIGCONT)
        await store.ping()
        assert await store.get(key()) is None
        await store.close()


# The semantic cache over it; what it decides is in test_semantic.py


def semantic(store: RedisStore, direction: tuple[float, ...], threshold: float = 0.6) -> RedisSemanticCache:
    async def embed(text: str) -> NDArray[np.float32]:
        return np.array(direction, np.float32)

    async def verify(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return np.full(len(pairs), 0.5, np.float32)

    return RedisSemanticCache(CacheConfig(), store, embed, verify, "plane", threshold)


async def test_a_text_near_enough_is_a_hit_with_its_similarity(store: RedisStore) -> None:
    await store.put(key("north"), ENTRY, vector(NORTH))
    lookup = await semantic(store, NORTHEAST).lookup(key("northeast"))
    assert (lookup.status, lookup.reason, lookup.entry) == ("hit", "similar", ENTRY)
    assert lookup.similarity == pytest.approx(0.8, abs=0.02)


async def test_a_hit_is_evicted_by_the_name_it_gives(store: RedisStore) -> None:
    await store.put(key("north"), CacheEntry("north", answer("Up."), "local", "acme"), vector(NORTH))
    entry_id = (await semantic(store, NORTHEAST).lookup(key("northeast"))).entry_id
    assert entry_id is not None
    scope, _, entry = entry_id.partition(".")
    assert await store.forget(CacheKey(scope, entry, "", semantic=False), "acme")
    assert (await semantic(store, NORTHEAST).lookup(key("northeast"))).status == "miss"


async def test_a_text_not_near_enough_is_a_miss_that_keeps_its_embedding(store: RedisStore) -> None:
    await store.put(key("north"), ENTRY, vector(NORTH))
    lookup = await semantic(store, NORTHEAST, threshold=0.9).lookup(key("northeast"))
    assert (lookup.status, lookup.entry) == ("miss", None)
    assert lookup.similarity == pytest.approx(0.8, abs=0.02)
    assert lookup.embedding == vector(NORTHEAST)


async def test_where_the_nearest_has_expired_the_next_near_enough_serves(store: RedisStore, client: Redis) -> None:
    await store.put(key("north"), CacheEntry("north", answer("Old."), "local"), vector(NORTH))
    await store.put(key("northeast"), ENTRY, vector(NORTHEAST))
    await client.delete(*await client.keys(f"*:e:{key('north').entry}"))
    lookup = await semantic(store, NORTH).lookup(key("upwards"))
    assert (lookup.status, lookup.entry) == ("hit", ENTRY)
    assert lookup.similarity == pytest.approx(0.8, abs=0.02)


async def test_an_empty_cache_has_no_candidate(store: RedisStore) -> None:
    lookup = await semantic(store, NORTH).lookup(key())
    assert (lookup.status, lookup.reason, lookup.similarity) == ("miss", "no candidate", None)


# The embedded server


async def test_what_a_persistent_redis_holds_survives_a_restart(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    for stored in (None, ENTRY):
        with server:
            store = RedisConfig(timeout_s=5).build(lambda tenant: Limits(60), server.url)
            assert await store.get(key()) == stored
            await store.put(key(), ENTRY, vector(EAST))
            assert len(await store.nearest(key(), vector(EAST), 4)) == 1
            await store.close()


def test_a_server_that_a_killed_launcher_left_behind_is_ended(tmp_path: Path) -> None:
    left = EmbeddedRedis(tmp_path, persistent=False)
    left.start()
    with EmbeddedRedis(tmp_path, persistent=False) as server:
        assert (left.running(), server.running()) == (False, True)
    assert not server.running()


def test_a_redis_that_does_not_start_shows_its_log(tmp_path: Path, redis: EmbeddedRedis) -> None:
    port = int(redis.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(ConfigError, match=r"(?s)the embedded Redis did not start: .*in use"):
        EmbeddedRedis(tmp_path, port, persistent=False).start()


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_URL", raising=False)
    with pytest.raises(ConfigError, match=r"redis\.url_env: A_URL is not set"):
        RedisConfig(url_env="A_URL").build()
    monkeypatch.setenv("A_URL", "redis://localhost:1/0")
    assert RedisConfig(url_env="A_URL").url() == "redis://localhost:1/0"
