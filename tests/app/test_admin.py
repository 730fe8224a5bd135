"""The cache managed as a whole, on one Redis and on a cluster of three masters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest
import uvloop

from app.benchmark.redis_cluster import redis_cluster
from app.cache import RedisConfig, RedisSemanticCache, RedisStore, cache_key
from app.cache.admin import CacheAdmin, Row
from app.cache.bound import Bound, Tally
from app.cache.bounds import RedisBounds
from app.cache.semantic import CacheConfig
from app.cache.store import Limits
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError
from app.ports import free_port
from app.schema import CacheEntry, CacheKey, Embedding
from tests.fakes import answer, chat

pytestmark = pytest.mark.redis
TENANTS = ("acme", "globex", "initech", "umbrella")


@pytest.fixture(scope="module", params=["standalone", "cluster"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bool, str]]:
    """Whether it is a cluster, and its URL."""
    folder = tmp_path_factory.mktemp("redis")
    with ExitStack() as stack:
        if request.param == "cluster":
            yield True, stack.enter_context(redis_cluster(folder)).url
        else:
            yield False, stack.enter_context(EmbeddedRedis(folder, persistent=False)).url


@pytest.fixture
async def store(config: tuple[bool, str]) -> AsyncIterator[RedisStore]:
    cluster, url = config
    store = RedisConfig(timeout_s=5, cluster=cluster).build(lambda tenant: Limits(60, 5), url)
    await store.run(lambda client: client.flushall())
    yield store
    await store.close()


@pytest.fixture
def admin(store: RedisStore) -> CacheAdmin:
    return CacheAdmin(store)


def key(text: str, tenant: str, **fields: str) -> CacheKey:
    return cache_key(chat(text, **fields).body, tenant)  # type: ignore[arg-type]


def vector(x: float, y: float, space: str = "plane") -> Embedding:
    return Embedding(space, np.array([x, y], "<f4").tobytes())


async def put(store: RedisStore, text: str, tenant: str, x: float = 1.0, y: float = 0.0, **fields: str) -> CacheKey:
    stored = key(text, tenant, **fields)
    await store.put(stored, CacheEntry(text, answer(f"About {text}."), "local", tenant), vector(x, y))
    return stored


async def expire(store: RedisStore, gone: CacheKey, tenant: str, last: bool) -> None:
    """Do what time does: the entry goes, its end is past, and if it is the last of its scope, the scope's too."""
    entry, ends, past = f"tw:{{{gone.scope}}}:e:{gone.entry}", f"tw:{{{gone.scope}}}:ends", time.time() - 1
    await store.run(lambda client: client.delete(entry))
    await store.run(lambda client: client.zadd(ends, {gone.entry: past}))
    if last:
        await store.run(lambda client: client.zadd(f"tw:tenant:{tenant}", {gone.scope: past}))


async def keys(store: RedisStore) -> list[str]:
    return sorted([name.decode() async for name in await store.run(_iterator)])


async def _iterator(client: object) -> AsyncIterator[bytes]:
    return client.scan_iter()  # type: ignore[attr-defined, no-any-return]


async def test_stats_count_by_tenant(store: RedisStore, admin: CacheAdmin) -> None:
    for text in ("one", "two"):
        await put(store, text, "acme")
    await put(store, "one", "acme", model="top")
    await put(store, "one", "globex")
    assert await admin.tenants() == ["acme", "globex"]
    stats = await admin.stats("acme")
    assert (stats.scopes, stats.entries, stats.vectors) == (2, 3, 3)
    assert stats.bytes > (await admin.stats("globex")).bytes > 0


async def test_a_tenant_is_cleared_over_all_shards_and_no_other(store: RedisStore, admin: CacheAdmin) -> None:
    for tenant in TENANTS:
        for model in ("local", "mid", "top"):
            await put(store, "one", tenant, model=model)
    assert await admin.clear_tenant("acme") == 3
    assert await store.get(key("one", "acme", model="mid")) is None
    assert await store.nearest(key("one", "acme", model="mid"), vector(1, 0), 3) == []
    assert [(await admin.stats(tenant)).entries for tenant in TENANTS] == [0, 3, 3, 3]


async def test_a_scope_is_cleared_with_what_is_known_of_it(store: RedisStore, admin: CacheAdmin) -> None:
    gone, kept = await put(store, "one", "acme", model="mid"), await put(store, "one", "acme", model="top")
    bounds = RedisBounds(store, 0.01, 0.95)
    for scope in (gone.scope, kept.scope):
        await bounds.add(scope, "hits", True, everywhere=False)
    assert await admin.clear_scope(gone.scope) == 1
    assert await store.get(gone) is None
    assert await store.get(kept) is not None
    assert await bounds.read(gone.scope) == Bound()
    assert await bounds.read(kept.scope) == Bound(0, Tally(1))


async def test_a_scope_that_had_to_be_tightened_is_tight_when_it_comes_again(
    store: RedisStore, admin: CacheAdmin
) -> None:
    tight, loose = await put(store, "one", "acme", model="mid"), await put(store, "one", "acme", model="top")
    await store.run(lambda client: client.hset("tw:bounds", mapping={tight.scope: 2, loose.scope: -2}))
    bounds = RedisBounds(store, 0.01, 0.95)
    for scope in (tight.scope, loose.scope):
        await admin.clear_scope(scope)
    assert [(await bounds.read(scope)).steps for scope in (tight.scope, loose.scope)] == [2, 0]
    assert [0 < s <= 30 * 24 * 3600 for s in await store.run(lambda c: c.httl("tw:bounds", tight.scope))] == [True]
    await bounds.add(tight.scope, "hits", True)
    assert await store.run(lambda client: client.httl("tw:bounds", tight.scope)) == [-1]


async def test_the_sweeper_leaves_nothing_of_what_has_expired(store: RedisStore, admin: CacheAdmin) -> None:
    kept = await put(store, "new", "acme")
    for tenant in ("acme", "globex"):
        await expire(store, await put(store, "old", tenant, model="top"), tenant, last=True)
    gone = [key("old", tenant, model="top").scope for tenant in ("acme", "globex")]
    assert await admin.sweep() == 2
    assert await store.get(kept) is not None
    assert await admin.tenants() == ["acme"]
    assert not [name for name in await keys(store) if "globex" in name or any(scope in name for scope in gone)]
    assert await admin.sweep() == 0


async def test_a_write_clears_its_scope_of_what_has_expired(store: RedisStore) -> None:
    old = await put(store, "old", "acme")
    await expire(store, old, "acme", last=False)
    new = await put(store, "new", "acme", 0.0, 1.0)
    assert [c.entry for c in await store.nearest(new, vector(1, 0), 5)] == [new.entry]


async def test_what_is_exported_is_found_again_after_it_is_imported(store: RedisStore, admin: CacheAdmin) -> None:
    stored = [await put(store, text, "acme", x, 1 - x) for text, x in (("one", 1.0), ("two", 0.0))]
    lines = [msgspec.json.encode(row) async for row in admin.export("acme")]
    await admin.clear_tenant("acme")
    assert await store.get(stored[0]) is None
    assert [await admin.load(msgspec.json.decode(line, type=Row)) for line in lines] == [True, True]
    assert [(await store.get(one)) is not None for one in stored] == [True, True]
    (candidate,) = await store.nearest(stored[0], vector(1, 0), 1)
    assert candidate.entry == stored[0].entry
    assert candidate.similarity == pytest.approx(1, abs=0.02)
    assert (await admin.stats("acme")).vectors == 2
    ttl = await store.run(lambda client: client.ttl(f"tw:{{{stored[0].scope}}}:e:{stored[0].entry}"))
    assert 50 < ttl <= 60
    assert not await admin.load(msgspec.structs.replace(msgspec.json.decode(lines[0], type=Row), ttl_s=0))


async def test_the_least_recently_used_go_first(store: RedisStore) -> None:
    for i in range(5):
        await put(store, str(i), "acme")
    assert await store.get(key("0", "acme")) is not None
    await store.flush()
    for i in range(5, 7):
        await put(store, str(i), "acme")
    assert [i for i in range(7) if await store.get(key(str(i), "acme"))] == [0, 3, 4, 5, 6]


async def test_a_hit_by_meaning_is_a_use(store: RedisStore) -> None:
    async def embed(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.array([1, 0], np.float32)

    async def verify(pairs: object) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.array([0.99], np.float32)

    for i in range(5):
        await put(store, f"text {'abcde'[i]}", "acme", 1.0 if i == 0 else 0.0, 0.0 if i == 0 else 1.0)
    semantic = RedisSemanticCache(CacheConfig(), store, embed, verify, "plane", 0.9)
    found = await semantic.lookup(key("another text", "acme"))
    assert found.entry is not None
    assert found.entry.text == "text a"
    await store.flush()
    await put(store, "text f", "acme", 0.0, 1.0)
    assert await store.get(key("text a", "acme")) is not None
    assert await store.get(key("text b", "acme")) is None


def test_a_cache_whose_connections_another_call_closes_is_down(config: tuple[bool, str]) -> None:
    cluster, url = config

    async def ask(after: int) -> list[CacheEntry | BaseException | None]:
        store = RedisConfig(timeout_s=5, cluster=cluster, retry_after_s=0.001).build(url=url)
        await store.get(key("first", "acme"))
        calls = [asyncio.create_task(store.get(key(f"text {i}", f"tenant {i}"))) for i in range(100)]
        for _ in range(after):
            await asyncio.sleep(0)
        await store._client.aclose()  # as a cluster's client does for one that has lost a node
        found = await asyncio.gather(*calls, return_exceptions=True)
        await store.close()
        return found

    found = [one for after in range(1, 8) for one in uvloop.run(ask(after))]  # the loop that the gateway runs on
    assert [one for one in found if one is not None and not isinstance(one, CacheUnavailableError)] == []


async def test_a_cluster_that_is_not_there_is_a_cache_that_is_down() -> None:
    store = RedisConfig(timeout_s=0.5, cluster=True).build(url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(CacheUnavailableError):
        await store.get(key("one", "acme"))
    await store.close()
