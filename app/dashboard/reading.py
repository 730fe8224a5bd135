"""Dashboard: everything that the page shows, read from Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from app.cache.bounds import RedisBounds
from app.cache.store import RedisStore
from app.config import GatewayConfig
from app.dashboard.figures import decisions, false_hits, series, so_far, targets
from app.dashboard.periods import Step, Sums, steps_of, summed
from app.ledger.calls import calls
from app.ledger.store import RedisLedger
from app.quality.store import RedisQuality
from app.tier.shared import shared_breakers

_LATEST = 20
_TENANTS = 10
_LATE_S = 600  # records that waited for Redis may come so long after their step,
_KEPT_S = 300  # or are seen so much later
_BLOCK = 8  # steps that are summed up before others have their turn


class Dashboard:
    """Gathers the figures of a gateway.

    Args:
        store: One of its own, so that a slow answer to it leaves the path of requests alone.
        watched: Whether routed answers are checked.
        note: What the page says above the figures.
    """

    def __init__(
        self,
        config: GatewayConfig,
        store: RedisStore,
        *,
        watched: bool,
        note: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        cache, routing = config.cache, config.routing
        self._config = config
        self._store = store
        self._ledger = RedisLedger(store, config.ledger)
        self._false_hits = (cache.max_error_rate(), cache.audit.confidence)
        self._bounds = RedisBounds(store, *self._false_hits)
        self._kept = (config.quality_kept(), routing.quality.confidence)
        self._quality = RedisQuality(store, *self._kept, now) if watched else None
        self._note = note
        self._now = now
        self._sums: dict[str, tuple[float, Sums]] = {}  # by step: when it was read, and what

    async def figures(self, range_name: str) -> dict[str, Any]:
        """Return all that the page shows.

        Raises:
            InvalidRequestError: There is no such range.
            CacheUnavailableError: Redis did not answer.
        """
        now = self._now()
        steps = steps_of(range_name, now)
        sums = await self._summed(steps, now)
        total = Sums()
        for step_sums in sums.values():
            total.join(step_sums)
        called = await calls(self._store, [step.name for step in steps])
        breakers = {tier.name: await shared_breakers(tier.name, self._store) for tier in self._config.tiers}
        return {
            "object": "dashboard",
            "range": range_name,
            "time": now,
            "note": self._note,
            "baseline": self._config.baseline_model(),
            "tiers": [tier.name for tier in self._config.tiers],
            "so_far": so_far(await self._ledger.total()),
            "total": total.total.figures(),
            "series": series(steps, sums),
            "false_hits": false_hits(await self._bounds.read(), *self._false_hits),
            "quality": (await self._quality.read()).shown(*self._kept) if self._quality else None,
            "targets": targets(self._config.tiers, called, breakers, now),
            "top_tenants": total.bills(_TENANTS),
            "latest": decisions(await self._ledger.recent(_LATEST, now)),
        }

    async def _summed(self, steps: Sequence[Step], now: float) -> dict[str, Sums]:
        """Read the sums of steps; those that are over change no more and are kept for a while."""
        known = {name: sums for name, (read, sums) in self._sums.items() if now - read < _KEPT_S}
        unknown = [step for step in steps if step.name not in known]
        for i in range(0, len(unknown), _BLOCK):
            block = unknown[i : i + _BLOCK]
            found = summed(await self._ledger.counters([step.name for step in block]))
            for step in block:
                known[step.name] = found[step.name]
                if step.end + _LATE_S < now:
                    self._sums[step.name] = (now, known[step.name])
        self._sums = {name: kept for name, kept in self._sums.items() if now - kept[0] < _KEPT_S}
        return {step.name: known[step.name] for step in steps}
