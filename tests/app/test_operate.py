"""What `tierwise cache` does with the Redis of a configuration."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bundled import run_dir
from app.cache import RedisConfig, cache_key
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError
from app.operate import Imported, cache_clear, cache_export, cache_import, cache_stats
from app.schema import CacheEntry, Embedding
from tests.fakes import answer, chat, serve_file

VECTOR = Embedding("line", b"\x00\x00\x80?")
PACKED = base64.b64encode(VECTOR.vector)
BAD_VECTORS = [b"!" + PACKED, PACKED[:-3], b"", base64.b64encode(b"abc"), base64.b64encode(2 * VECTOR.vector)]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIERWISE_REDIS_URL", raising=False)
    return serve_file(tmp_path, 18123, redis={"embedded": True})


@pytest.fixture
def redis(config: Path) -> Iterator[EmbeddedRedis]:
    """The embedded Redis where `tierwise serve` on port 18123 would have it, with an answer of each of two tenants."""
    with EmbeddedRedis(run_dir(18123) / "redis", persistent=False) as server:
        asyncio.run(fill(server.url))
        yield server


async def fill(url: str) -> None:
    store = RedisConfig(timeout_s=5).build(url=url)
    for tenant in ("acme", "globex"):
        entry = CacheEntry("hello", answer("Hi."), "local", tenant)
        await store.put(cache_key(chat("hello").body, tenant), entry, VECTOR)
    await store.close()


@pytest.mark.redis
def test_stats_count_what_each_tenant_has(config: Path, redis: EmbeddedRedis) -> None:
    figures = cache_stats(config, None)
    assert [stats["tenant"] for stats in figures["tenants"]] == ["acme", "globex"]
    assert (figures["total"]["entries"], figures["total"]["vectors"]) == (2, 2)
    assert cache_stats(config, "acme")["total"]["entries"] == 1


@pytest.mark.redis
@pytest.mark.parametrize("name", ["cache.jsonl", "cache.jsonl.gz"])
def test_what_is_exported_can_be_imported_after_all_is_cleared(
    config: Path, redis: EmbeddedRedis, tmp_path: Path, name: str
) -> None:
    assert cache_export(config, tmp_path / name, None) == 2
    assert cache_clear(config, None) == 2
    assert cache_stats(config, None)["total"]["entries"] == 0
    assert cache_import(config, tmp_path / name, print) == Imported(2, 0, 0)
    assert cache_stats(config, None)["total"]["vectors"] == 2


@pytest.mark.redis
def test_one_tenant_is_cleared_alone(config: Path, redis: EmbeddedRedis) -> None:
    assert cache_clear(config, "acme") == 1
    assert [stats["entries"] for stats in cache_stats(config, None)["tenants"]] == [0, 1]


@pytest.mark.redis
def test_lines_that_cannot_be_read_are_named_and_the_others_stored(
    config: Path, redis: EmbeddedRedis, tmp_path: Path
) -> None:
    file = tmp_path / "cache.jsonl"
    cache_export(config, file, "acme")
    line = file.read_bytes()
    expired = line.replace(b'"ttl_s":', b'"ttl_s":-')
    bad = [b"not JSON\n", b"{}\n", line.replace(b"hello", b"h\xff"), *(line.replace(PACKED, v) for v in BAD_VECTORS)]
    file.write_bytes(line + b"".join(bad) + expired)
    said: list[str] = []
    assert cache_import(config, file, said.append) == Imported(1, 1, len(bad))
    assert [f"line {number} is left out" in words for number, words in enumerate(said, 2)] == [True] * len(bad)


def test_a_compressed_file_that_is_cut_off_is_refused(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}" * 100)[:-12])
    with pytest.raises(ConfigError, match=r"cannot read `.*gz`"):
        cache_import(config, file, print)


def test_an_embedded_redis_that_does_not_run_says_what_to_start(config: Path) -> None:
    with pytest.raises(ConfigError, match="does not run; start `tierwise serve"):
        cache_stats(config, None)


def test_without_redis_there_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="so there is no cache"):
        cache_stats(serve_file(tmp_path), None)
