"""Requests and tokens a minute, as configured: counted by the library `limits`, with Redis for all replicas."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from app.cache import RedisConfig
from app.providers.base import TargetConfig

if TYPE_CHECKING:
    from limits.aio.storage import Storage

log = logging.getLogger(__name__)


class RateLimit:
    """What a target may still be asked this minute. A storage that fails limits nothing.

    Args:
        storage: Counts; None is memory of this process alone.
    """

    def __init__(self, config: TargetConfig, tier: str, storage: Storage | None = None) -> None:
        from limits import RateLimitItemPerMinute
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self._key = (tier, config.label)
        self._limiter: Any = None
        if config.requests_per_minute or config.tokens_per_minute:
            self._limiter = SlidingWindowCounterRateLimiter(storage or MemoryStorage())
        self._requests = (
            RateLimitItemPerMinute(config.requests_per_minute, 1, "r") if config.requests_per_minute else None
        )
        self._tokens = RateLimitItemPerMinute(config.tokens_per_minute, 1, "t") if config.tokens_per_minute else None

    async def take(self) -> bool:
        """Count a request, if there is room for it."""
        if self._limiter is None:
            return True
        try:
            if self._tokens and not await self._limiter.test(self._tokens, *self._key):
                return False
            return self._requests is None or bool(await self._limiter.hit(self._requests, *self._key))
        except Exception as error:
            log.warning("rate limits of %s are not counted: %s", self._key[1], error)
            return True

    async def share_used(self) -> float:
        """Return the share of the minute's requests or tokens that is used, whichever is more, in [0, 1]."""
        shares = [0.0]
        try:
            for item in filter(None, (self._requests, self._tokens)):
                left = (await self._limiter.get_window_stats(item, *self._key)).remaining
                shares.append(1 - max(left, 0) / item.amount)
        except Exception as error:
            log.warning("rate limits of %s are not known: %s", self._key[1], error)
        return max(shares)

    async def used(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        if self._tokens is None or not tokens:
            return
        try:
            # `hit` counts nothing past the limit, where every further request has to wait
            room = (await self._limiter.get_window_stats(self._tokens, *self._key)).remaining
            await self._limiter.hit(self._tokens, *self._key, cost=min(tokens, max(room, 0)))
        except Exception as error:
            log.warning("rate limits of %s are not counted: %s", self._key[1], error)


def limit_storage(redis: RedisConfig) -> Storage | None:
    """Return a storage in Redis for all replicas; None, each for itself, on a Redis Cluster or without a URL."""
    from limits.aio.storage import RedisStorage

    if redis.cluster or not redis.has_url():
        return None
    return RedisStorage(
        f"async+{redis.url()}", implementation="redispy", key_prefix="tw:limit", socket_timeout=redis.timeout_s
    )
