"""The quality kept, in Redis, for all replicas.

| key                          | type   | holds                                                              |
|------------------------------|--------|--------------------------------------------------------------------|
| `tw:quality:counts`          | hash   | since a cut point last moved: `#` requests drawn, `#down` of them routed
|                              |        | down, TIER checks of its answers, TIER`!` those that found a bad one |
| `tw:quality:steps`           | hash   | TIER to the steps of its cut point, where they are not 0            |
| `tw:quality:usd:YYYY-MM-DD`  | string | dollars spent on checks that day (UTC)                             |
| `tw:quality:pairs`           | hash   | ID to a pair that waits for a person, as JSON: for a week,
|                              |        | or until a cut point moves                                         |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from app.cache.bound import Tally
from app.cache.store import RedisStore
from app.errors import CacheUnavailableError
from app.quality.audit import Pair, Watch
from app.quality.bound import Kept

_FRESH_S = 2.0
_SPENT_KEPT_S = 3 * 24 * 3600
_PAIRS_KEPT_S = 7 * 24 * 3600
_BAD, _DRAWN, _DOWN = "!", "#", "#down"  # no tier has such a name
_pairs = msgspec.json.Decoder(Pair)


class RedisQuality:
    """A QualityBounds.

    Args:
        kept: The share of answers that must be as good as the best tier's.
        confidence: Of the interval of the share that is not.
    """

    def __init__(self, store: RedisStore, kept: float, confidence: float, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._kept = kept
        self._confidence = confidence
        self._now = now
        self._watch = Watch()
        self._read_at = -_FRESH_S
        self._reading: asyncio.Task[None] | None = None

    def now(self) -> Watch:
        """Return where it stands, at most seconds old, without waiting."""
        if time.monotonic() - self._read_at >= _FRESH_S and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._refresh())
        return self._watch

    async def read(self) -> Watch:
        """Return where it stands.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        counts = await self._store.run(lambda client: client.hgetall("tw:quality:counts"))
        steps = await self._steps()
        spent = await self._store.run(lambda client: client.get(self._spent_name()))
        waiting = await self._store.run(lambda client: client.hlen("tw:quality:pairs"))
        found = {name.decode(): int(count) for name, count in counts.items()}
        drawn, down = found.pop(_DRAWN, 0), found.pop(_DOWN, 0)
        tallies = {tier: Tally(n, found.get(tier + _BAD, 0)) for tier, n in found.items() if not tier.endswith(_BAD)}
        return Watch(Kept(tallies, steps, drawn, down), float(spent or 0), int(waiting))

    async def draw(self, down: bool) -> None:
        """Count a routed request that was drawn. Raises as `read` does."""
        await self._store.run(lambda client: client.hincrby("tw:quality:counts", _DRAWN, 1))
        if down:
            await self._store.run(lambda client: client.hincrby("tw:quality:counts", _DOWN, 1))

    async def add(
        self, tier: str, as_good: bool, drawn_at: Mapping[str, int]
    ) -> tuple[Kept | None, tuple[str, int] | None]:
        """Count a check and make the move that it calls for. Raises as `read` does."""
        if await self._steps() != drawn_at:
            return None, None
        await self._store.run(lambda client: client.hincrby("tw:quality:counts", tier, 1))
        if not as_good:
            await self._store.run(lambda client: client.hincrby("tw:quality:counts", tier + _BAD, 1))
        kept = (await self.read()).kept
        move = kept.move(self._kept, self._confidence)
        # who deletes the counts makes the move, so that two replicas do not both make it
        if move and await self._store.run(lambda client: client.delete("tw:quality:counts")):
            await self._store.run(lambda client: client.hincrby("tw:quality:steps", *move))
            await self._store.run(lambda client: client.delete("tw:quality:pairs"))
            self._read_at = -_FRESH_S
            return (await self.read()).kept, move
        return kept, None

    async def spend(self, cost_usd: float) -> None:
        """Count what a check cost. Raises as `read` does."""
        name = self._spent_name()
        await self._store.run(lambda client: client.incrbyfloat(name, cost_usd))
        await self._store.run(lambda client: client.expire(name, _SPENT_KEPT_S))

    async def keep(self, pair: Pair) -> None:
        """Keep a pair for people. Raises as `read` does."""
        value = msgspec.json.encode(pair)
        # each field expires by itself, whether or not anybody asks for the pairs
        await self._store.run(lambda client: client.hsetex("tw:quality:pairs", pair.id, value, ex=_PAIRS_KEPT_S))

    async def pairs(self) -> list[Pair]:
        """Return the pairs that wait, oldest first. Raises as `read` does."""
        found = await self._store.run(lambda client: client.hgetall("tw:quality:pairs"))
        return sorted((_pairs.decode(raw) for raw in found.values()), key=lambda pair: pair.created)

    async def take(self, pair_id: str) -> Pair | None:
        """Remove a pair and return it. Raises as `read` does."""
        raw = await self._store.run(lambda client: client.hget("tw:quality:pairs", pair_id))
        gone = await self._store.run(lambda client: client.hdel("tw:quality:pairs", pair_id))
        return _pairs.decode(raw) if raw is not None and gone else None

    async def _steps(self) -> dict[str, int]:
        steps = await self._store.run(lambda client: client.hgetall("tw:quality:steps"))
        return {tier.decode(): int(count) for tier, count in steps.items() if int(count) > 0}

    def _spent_name(self) -> str:
        return f"tw:quality:usd:{datetime.fromtimestamp(self._now(), UTC):%Y-%m-%d}"

    async def _refresh(self) -> None:
        self._read_at = time.monotonic()
        try:
            self._watch = await self.read()
        except CacheUnavailableError:
            return  # what was read last stays in force
