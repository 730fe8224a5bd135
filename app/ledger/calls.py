"""What became of the calls of targets, summed in Redis by five minutes, hour and day for all replicas.

`tw:{calls}:PERIOD` is a hash of `[tier, target, result]` as JSON to calls.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from app.cache.store import RedisStore
from app.ledger.rollup import SLOTS_KEPT_S, periods_of, slot_of

_PREFIX = "tw:{calls}:"  # the braces keep all of it on one shard
_KEPT_S = 40 * 24 * 3600


class Called(NamedTuple):
    """What calls are counted by.

    Attributes:
        result: `ok`, or the kind of the failure.
    """

    tier: str
    target: str
    result: str


_called = msgspec.json.Decoder(Called)


class CallCounts:
    """The calls of one tier's replica, counted at once and told to Redis now and then."""

    def __init__(self, tier: str, store: RedisStore, now: Callable[[], float] = time.time) -> None:
        self._tier = tier
        self._store = store
        self._now = now
        self._waiting: Counter[tuple[str, str]] = Counter()  # by slot, and the group as JSON

    def record(self, target: str, result: str) -> None:
        """Count a call."""
        written = msgspec.json.encode(Called(self._tier, target, result)).decode()
        self._waiting[slot_of(self._now()), written] += 1

    async def tell(self) -> None:
        """Add to the sums what was counted since the last time; if Redis does not answer, the next time does.

        Calls whose count was taken, and the word of it lost, count twice: they are shown, not charged.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        told = Counter(self._waiting)
        if not told:
            return

        def add(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            for (slot, written), count in told.items():
                for period in periods_of(slot):
                    pipe.hincrby(_PREFIX + period, written, count)
                    pipe.expire(_PREFIX + period, SLOTS_KEPT_S if period == slot else _KEPT_S)
            return pipe.execute()

        await self._store.run(add)
        self._waiting -= told


async def calls(store: RedisStore, periods: Sequence[str]) -> Counter[Called]:
    """Sum up the calls of periods.

    Raises:
        CacheUnavailableError: Redis did not answer.
    """

    def read(client: Any) -> Any:
        pipe = client.pipeline(transaction=False)
        for period in periods:
            pipe.hgetall(_PREFIX + period)
        return pipe.execute()

    found: Counter[Called] = Counter()
    for counts in await store.run(read):
        for raw, count in counts.items():
            found[_called.decode(raw)] += int(count)
    return found
