"""Rate limits of a target: as configured, and by the word of its API."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cache import RedisConfig
from app.embedded_redis import EmbeddedRedis
from app.providers.base import TargetConfig, seconds
from app.tier.limits import RateLimit, limit_storage


async def test_requests_past_the_limit_find_no_room() -> None:
    limit = RateLimit(TargetConfig(model="small", requests_per_minute=2), "mid")
    assert [await limit.take() for _ in range(3)] == [True, True, False]


async def test_tokens_past_the_limit_leave_no_room_for_a_request() -> None:
    limit = RateLimit(TargetConfig(model="small", tokens_per_minute=100), "mid")
    assert await limit.take()
    await limit.used(60)
    assert await limit.take()
    await limit.used(60)
    assert not await limit.take()


async def test_without_limits_there_is_always_room() -> None:
    limit = RateLimit(TargetConfig(model="small"), "mid")
    await limit.used(10**9)
    assert all([await limit.take() for _ in range(100)])


async def test_the_share_that_is_used_is_that_of_the_limit_that_ends_first() -> None:
    limit = RateLimit(TargetConfig(model="small", requests_per_minute=10, tokens_per_minute=100), "mid")
    assert await limit.share_used() == 0.0
    await limit.take()
    assert await limit.share_used() == pytest.approx(0.1)
    await limit.used(500)
    assert await limit.share_used() == 1.0
    assert await RateLimit(TargetConfig(model="small"), "mid").share_used() == 0.0


@pytest.mark.redis
async def test_replicas_count_together_and_a_redis_that_is_gone_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TargetConfig(model="small", requests_per_minute=3)
    with EmbeddedRedis(tmp_path, persistent=False) as redis:
        monkeypatch.setenv("TIERWISE_REDIS_URL", redis.url)
        storages = [limit_storage(RedisConfig()) for _ in range(2)]
        replicas = [RateLimit(config, "mid", storage) for storage in storages]
        assert [await replicas[i % 2].take() for i in range(5)] == [True, True, True, False, False]
    assert await replicas[0].take()
    for storage in storages:
        await storage.bridge.get_connection().aclose()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3s", 3723.0),
        ("", None),
        ("?", None),
    ],
)
def test_spans_of_time_are_read_as_the_apis_write_them(text: str, expected: float | None) -> None:
    assert seconds(text) == expected
