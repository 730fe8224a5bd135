"""Breakers shared by the replicas of a tier: who opens one tells the others, by Redis and off the path."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from app.cache.store import RedisStore
from app.tier.policy import Target


class SharedBreakers:
    """The open breakers of a tier in Redis: `tw:breakers:TIER`, a hash of labels to the time they end.

    Args:
        clock: The breakers' own.
        now: The time that all replicas share.
    """

    def __init__(
        self,
        tier: str,
        targets: Mapping[str, Target],
        store: RedisStore,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = breakers_key(tier)
        self._targets = targets
        self._store = store
        self._clock = clock
        self._now = now
        self._told: dict[str, float] = {}

    async def exchange(self) -> None:
        """Tell what opened and closed here since the last time, and take what others told.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        moved = {
            label: target.breaker.open_until
            for label, target in self._targets.items()
            if target.breaker.open_until != self._told.get(label, 0.0)
        }
        opened = {label: self._now() + until - self._clock() for label, until in moved.items() if until > self._clock()}
        closed = [label for label, until in moved.items() if not until]
        if opened:
            await self._store.run(lambda client: client.hset(self._key, mapping=opened))
            await self._store.run(lambda client: client.expire(self._key, 3600))
        if closed:
            await self._store.run(lambda client: client.hdel(self._key, *closed))
        self._told |= moved
        found: Mapping[bytes, bytes] = await self._store.run(lambda client: client.hgetall(self._key))
        for raw, ends in found.items():
            label, left_s = raw.decode(), float(ends) - self._now()
            if left_s > 0 and label in self._targets:
                self._targets[label].breaker.heard(self._clock() + left_s)
                self._told[label] = self._targets[label].breaker.open_until


async def shared_breakers(tier: str, store: RedisStore) -> dict[str, float]:
    """Return the targets of a tier whose breaker is not closed, with the Unix time at which one request may try.

    Raises:
        CacheUnavailableError: Redis did not answer.
    """
    found = await store.run(lambda client: client.hgetall(breakers_key(tier)))
    return {label.decode(): float(ends) for label, ends in found.items()}


def breakers_key(tier: str) -> str:
    """Name the hash of a tier's breakers."""
    return f"tw:breakers:{tier}"
