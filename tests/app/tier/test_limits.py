"""Rate limits of a target: as configured, and by the word of its API."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cache import RedisConfig
from app.embedded_redis import EmbeddedRedis
from app.providers.base import Quota, TargetConfig, pause_asked_for, seconds
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
        ("soon", None),
        ("Wed, 01 Jan 2025 00:00:20 GMT", 20.0),
        ("2025-01-01T00:00:20Z", 20.0),
        ("Tue, 31 Dec 2024 23:59:00 GMT", 0.0),
    ],
)
def test_spans_of_time_are_read_as_the_apis_write_them(text: str, expected: float | None) -> None:
    assert seconds(text, lambda: 1735689600.0) == expected


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, None),
        ({"retry-after": "7", "x-ratelimit-reset-requests": "20s"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ratelimit-reset-requests": "20s"}, 20.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}, 20.0),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20s",
                "x-ratelimit-remaining-tokens": "900",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            20.0,
        ),
    ],
)
def test_a_refusal_asks_for_a_pause_by_its_own_header_or_until_what_is_spent_is_reset(
    headers: dict[str, str], pause_s: float | None
) -> None:
    assert pause_asked_for(headers) == pause_s


@pytest.mark.parametrize(
    ("headers", "rest_s"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m"}, 120.0),
        ({"x-ratelimit-remaining-tokens": "0.0", "x-ratelimit-reset-tokens": "3s"}, 3.0),
        ({"x-ratelimit-remaining-tokens": "-5"}, 1.0),
        ({"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "3s"}, 0.0),
        ({"anthropic-ratelimit-input-tokens-remaining": "0", "anthropic-ratelimit-input-tokens-reset": "9s"}, 9.0),
        ({"x-ratelimit-remaining-requests": "unlimited"}, 0.0),
    ],
)
def test_an_answer_that_leaves_nothing_of_a_limit_lets_the_target_rest(headers: dict[str, str], rest_s: float) -> None:
    quota = Quota(lambda: 0.0)
    quota.seen(headers)
    assert quota.exhausted_until == rest_s
