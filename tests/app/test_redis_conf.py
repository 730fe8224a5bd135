"""`configs/redis.conf`: the embedded Redis takes it, and a full one goes on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cache import RedisConfig, RedisStore, cache_key
from app.doctor.redis import redis_findings
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError
from app.schema import CacheEntry, Embedding
from tests.fakes import answer, chat
from tests.waiting import eventually

FILE = Path(__file__).parents[2] / "configs" / "redis.conf"
FULL = "12mb"  # little more than a Redis of 2 MB with what a client needs, so that it is soon full
VECTOR = Embedding("line", b"\x00\x00\x80?")


class ConfiguredRedis(EmbeddedRedis):
    """The embedded Redis with the directives of the file, each an option; port, address and folder stay its own."""

    def __init__(self, folder: Path, *more: str) -> None:
        options = [word for name, *values in directives() for word in (f"--{name}", *values)]
        super().__init__(folder, options=(*options, *more))


def directives() -> Iterator[list[str]]:
    for line in FILE.read_text("utf-8").splitlines():
        words = line.split()
        if words and not words[0].startswith("#") and words[0] not in ("port", "bind", "dir"):
            yield words


async def asked(url: str, *command: str) -> Any:
    store = RedisConfig(timeout_s=5).build(url=url)
    try:
        return await store.run(lambda client: client.execute_command(*command))
    finally:
        await store.close()


async def fill(store: RedisStore, tenant: str, count: int) -> None:
    text = "A long answer. " * 1000
    for number in range(count):
        body = chat(f"question {number}").body
        await store.put(cache_key(body, tenant), CacheEntry("q", answer(text), "top", tenant), VECTOR)


@pytest.mark.redis
def test_a_real_redis_takes_the_file_and_the_doctor_is_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ConfiguredRedis(tmp_path) as server:
        monkeypatch.setenv("TIERWISE_REDIS_URL", server.url)
        found = redis_findings(RedisConfig(), tmp_path)
        policy = asyncio.run(asked(server.url, "CONFIG", "GET", "maxmemory-policy"))
    assert policy == {b"maxmemory-policy": b"volatile-lru"}
    assert {finding.check: finding.state for finding in found if finding.state != "ok"} == {}


@pytest.mark.redis
def test_what_was_stored_is_there_after_a_crash(tmp_path: Path) -> None:
    server = ConfiguredRedis(tmp_path, "--appendfsync", "always")
    server.start()
    try:
        asyncio.run(asked(server.url, "SET", "tw:kept", "yes"))
        psutil.Process(server.pid).kill()
        assert eventually(lambda: not server.running(), 10)
        server.start()
        assert asyncio.run(asked(server.url, "GET", "tw:kept")) == b"yes"
    finally:
        server.stop()


@pytest.mark.redis
async def test_a_full_redis_evicts_answers_and_keeps_tenants_and_moved_thresholds(tmp_path: Path) -> None:
    with ConfiguredRedis(tmp_path, "--maxmemory", FULL) as server:
        store = RedisConfig(timeout_s=5).build(url=server.url)
        await store.run(lambda client: client.hset("tw:bounds", "", 3))
        await fill(store, "acme", 1500)  # no write fails
        info = await store.run(lambda client: client.info("stats"))
        assert info["evicted_keys"] > 0
        assert await store.run(lambda client: client.smembers("tw:tenants")) == {b"acme"}
        assert await store.run(lambda client: client.hget("tw:bounds", "")) == b"3"
        last = cache_key(chat("question 1499").body, "acme")
        assert await store.get(last) is not None
        nearest = await store.nearest(last, VECTOR, 8)
        assert len(await store.fetch(last, nearest)) == len(nearest)
        await store.close()


@pytest.mark.redis
async def test_a_full_redis_without_eviction_refuses_writes(tmp_path: Path) -> None:
    with ConfiguredRedis(tmp_path, "--maxmemory", FULL, "--maxmemory-policy", "noeviction") as server:
        store = RedisConfig(timeout_s=5).build(url=server.url)
        with pytest.raises(CacheUnavailableError, match=r"OutOfMemory|OOM"):
            await fill(store, "acme", 1500)
        await store.close()


@pytest.mark.redis
def test_a_snapshot_is_restored_as_the_manual_says(tmp_path: Path) -> None:
    data, snapshot = tmp_path / "data", tmp_path / "dump.rdb"
    with ConfiguredRedis(data) as server:
        asyncio.run(asked(server.url, "SET", "tw:kept", "yes"))
        asyncio.run(asked(server.url, "BGSAVE"))
        assert eventually(lambda: status(server.url)["rdb_bgsave_in_progress"] == 0, 30)
        shutil.copy(data / "dump.rdb", snapshot)
        asyncio.run(asked(server.url, "SET", "tw:kept", "no longer"))
    shutil.move(data / "appendonlydir", tmp_path / "away")
    shutil.copy(snapshot, data / "dump.rdb")
    with ConfiguredRedis(data, "--appendonly", "no") as server:
        asyncio.run(asked(server.url, "CONFIG", "SET", "appendonly", "yes"))
        assert eventually(lambda: status(server.url)["aof_rewrite_in_progress"] == 0, 30)
        assert eventually(lambda: (data / "appendonlydir").is_dir(), 10)
    with ConfiguredRedis(data) as server:
        assert asyncio.run(asked(server.url, "GET", "tw:kept")) == b"yes"


def status(url: str) -> dict[str, Any]:
    found: dict[str, Any] = asyncio.run(asked(url, "INFO", "persistence"))
    return found
