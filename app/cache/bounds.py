"""The bounds of all scopes in Redis, shared by the replicas.

| key            | type | holds                                                                               |
|----------------|------|-------------------------------------------------------------------------------------|
| `tw:{SCOPE}:b` | hash | checks at the scope's present threshold: `hits`, `hits-wrong`, `near`, `near-wrong` |
|                |      | and `at`, the steps of all scopes at that time                                      |
| `tw:bounds`    | hash | SCOPE to its steps, where they are not 0                                            |

`EVERYWHERE` is the scope of all scopes: most have too few hits to say anything by themselves. `CANARY` is that of all
scopes of a canary, so that what it does moves no threshold of the others.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from app.cache.audit import Kind
from app.cache.bound import Bound, Tally, total
from app.cache.store import RedisStore
from app.errors import CacheUnavailableError

EVERYWHERE = "all"
CANARY = "canary"
_KEPT_S = 30 * 24 * 3600  # counts of a scope where nothing is checked any more, and steps of one that was cleared
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
        return total(self._steps.get(scope, 0), self._steps.get(self._everywhere, 0))

    async def read(self, scope: str | None = None) -> Bound:
        """Return what is known of a scope, or of all; checks of a scope made before all moved say nothing any more.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        return (await self._read(scope or self._everywhere))[0]

    async def add(
        self, scope: str, kind: Kind, correct: bool, everywhere: bool = True
    ) -> tuple[Bound, tuple[int, int]]:
        """Count a check, of its scope and by default of all; move the thresholds that it calls for.

        The near misses that have made a scope looser count no more for all: they would make it looser once again.

        Returns:
            What is known of all scopes together, and the steps taken by the scope and by all.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        await self._count(scope, kind, correct)
        used, moved = await self._move(scope)
        if not everywhere:
            return await self.read(), (moved, 0)
        await self._count(self._everywhere, kind, correct)
        if moved < 0:
            await self._take_back(used.near)
        bound, moved_all = await self._move(self._everywhere)
        return bound.moved(moved_all) if moved_all else bound, (moved, moved_all)

    async def _read(self, scope: str) -> tuple[Bound, int]:
        """Return what is known of a scope, and the steps of all scopes that add to its own."""
        *counts, at = await self._store.run(lambda client: client.hmget(_name(scope), (*_FIELDS, "at")))
        own, everywhere = await self._store.run(lambda client: client.hmget("tw:bounds", (scope, self._everywhere)))
        others = 0 if scope == self._everywhere else int(everywhere or 0)
        if int(at or 0) != others:
            counts = [0] * len(_FIELDS)
        hits, hits_wrong, near, near_wrong = (max(int(count or 0), 0) for count in counts)
        return Bound(int(own or 0), Tally(hits, hits_wrong), Tally(near, min(near_wrong, near))), others

    async def _count(self, scope: str, kind: Kind, correct: bool) -> None:
        before, others = await self._read(scope)

        def count(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            if before.hits == before.near == Tally():
                pipe.delete(_name(scope))
                pipe.hset(_name(scope), "at", others)
            pipe.hincrby(_name(scope), kind, 1)
            if not correct:
                pipe.hincrby(_name(scope), f"{kind}-wrong", 1)
            pipe.expire(_name(scope), _KEPT_S)
            pipe.hpersist("tw:bounds", scope)  # it was cleared and is there again
            return pipe.execute()

        await self._store.run(count)

    async def _move(self, scope: str) -> tuple[Bound, int]:
        """Make the move that the counts of a scope call for; return what they were, and the step taken."""
        bound, others = await self._read(scope)
        step = bound.move(self._limit, self._confidence, others)
        # who deletes the counts makes the move, so that two replicas do not both make it
        if not step or not await self._store.run(lambda client: client.delete(_name(scope))):
            return bound, 0
        await self._store.run(lambda client: client.hincrby("tw:bounds", scope, step))
        return bound, step

    async def _take_back(self, near: Tally) -> None:
        def take(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            pipe.hincrby(_name(self._everywhere), "near", -near.checked)
            pipe.hincrby(_name(self._everywhere), "near-wrong", -near.wrong)
            return pipe.execute()

        await self._store.run(take)

    async def _refresh(self) -> None:
        self._read_at = time.monotonic()
        try:
            found = await self._store.run(lambda client: client.hgetall("tw:bounds"))
        except CacheUnavailableError:
            return  # what was read last stays in force
        self._steps = {scope.decode(): int(steps) for scope, steps in found.items()}


async def forget_bound(store: RedisStore, scope: str) -> None:
    """Forget what is known of a scope that is no more, but not for a while that it had to be tightened.

    Raises:
        CacheUnavailableError: Redis did not answer.
    """
    await store.run(lambda client: client.delete(_name(scope)))
    if int(await store.run(lambda client: client.hget("tw:bounds", scope)) or 0) > 0:
        await store.run(lambda client: client.hexpire("tw:bounds", _KEPT_S, scope))
    else:
        await store.run(lambda client: client.hdel("tw:bounds", scope))


def _name(scope: str) -> str:
    return f"tw:{{{scope}}}:b"
