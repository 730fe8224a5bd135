"""The bounds of all scopes in Redis, shared by the replicas.

| key            | type | holds                                                                         |
|----------------|------|-------------------------------------------------------------------------------|
| `tw:{SCOPE}:b` | hash | checks at the scope's present threshold: `hits`, `hits-wrong`, `near`, `near-wrong` |
| `tw:bounds`    | hash | SCOPE to its steps, where they are not 0                                      |

`EVERYWHERE` is the scope of all scopes: most have too few hits to say anything by themselves. `CANARY` is that of all
scopes of a canary, so that what it does moves no threshold of the others.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from app.cache.audit import Kind
from app.cache.bound import Bound, Tally
from app.cache.store import RedisStore
from app.errors import CacheUnavailableError

EVERYWHERE = "all"
CANARY = "canary"
_KEPT_S = 30 * 24 * 3600  # counts of a scope where nothing is checked any more
_FRESH_S = 2.0
_FIELDS = ("hits", "hits-wrong", "near", "near-wrong")


class RedisBounds:
    """A Bounds, and the steps in force as last read.

    Args:
        limit: Highest share of wrong hits.
        confidence: Of the interval whose lower end must stay under it.
        everywhere: Names all scopes together.
    """

    def __init__(self, store: RedisStore, limit: float, confidence: float, everywhere: str = EVERYWHERE) -> None:
        self._store = store
        self._limit = limit
        self._confidence = confidence
        self._everywhere = everywhere
        self._steps: dict[str, int] = {}
        self._read_at = -_FRESH_S
        self._reading: asyncio.Task[None] | None = None

    def steps(self, scope: str) -> int:
        """Return the steps in force for a scope, those of all scopes included; at most seconds old, without waiting."""
        if time.monotonic() - self._read_at >= _FRESH_S and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._refresh())
        return self._steps.get(scope, 0) + self._steps.get(self._everywhere, 0)

    async def read(self, scope: str | None = None) -> Bound:
        """Return what is known of a scope, or of all.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        scope = scope or self._everywhere
        counts = await self._store.run(lambda client: client.hmget(_name(scope), _FIELDS))
        steps = await self._store.run(lambda client: client.hget("tw:bounds", scope))
        hits, hits_wrong, near, near_wrong = (int(count or 0) for count in counts)
        return Bound(int(steps or 0), Tally(hits, hits_wrong), Tally(near, near_wrong))

    async def add(
        self, scope: str, kind: Kind, correct: bool, everywhere: bool = True
    ) -> tuple[Bound, tuple[int, int]]:
        """Count a check, of its scope and by default of all; move the thresholds that it calls for.

        Returns:
            What is known of all scopes together, and the steps taken by the scope and by all.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        _, moved = await self._add(scope, kind, correct)
        if not everywhere:
            return await self.read(), (moved, 0)
        bound, moved_all = await self._add(self._everywhere, kind, correct)
        return bound, (moved, moved_all)

    async def _add(self, scope: str, kind: Kind, correct: bool) -> tuple[Bound, int]:
        def count(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            pipe.hincrby(_name(scope), kind, 1)
            if not correct:
                pipe.hincrby(_name(scope), f"{kind}-wrong", 1)
            pipe.expire(_name(scope), _KEPT_S)
            return pipe.execute()

        await self._store.run(count)
        bound = await self.read(scope)
        step = bound.move(self._limit, self._confidence)
        # who deletes the counts makes the move, so that two replicas do not both make it
        if step and await self._store.run(lambda client: client.delete(_name(scope))):
            await self._store.run(lambda client: client.hincrby("tw:bounds", scope, step))
            return bound.moved(step), step
        return bound, 0

    async def _refresh(self) -> None:
        self._read_at = time.monotonic()
        try:
            found = await self._store.run(lambda client: client.hgetall("tw:bounds"))
        except CacheUnavailableError:
            return  # what was read last stays in force
        self._steps = {scope.decode(): int(steps) for scope, steps in found.items()}


async def forget_bound(store: RedisStore, scope: str) -> None:
    """Forget what is known of a scope that is no more.

    Raises:
        CacheUnavailableError: Redis did not answer.
    """
    await store.run(lambda client: client.delete(_name(scope)))
    await store.run(lambda client: client.hdel("tw:bounds", scope))


def _name(scope: str) -> str:
    return f"tw:{{{scope}}}:b"
