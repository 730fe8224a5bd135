"""Checks a share of the hits against a fresh answer, and near misses against the answer they got, off the path."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, PositiveInt

from app.background import Background
from app.cache.agreement import answer_text, settled_answers
from app.cache.bound import Bound
from app.errors import GatewayError
from app.protocols import ExactCache, SemanticCache
from app.schema import CacheEntry, CacheKey, CacheLookup, ChatRequest, Completion
from app.section import Section

log = logging.getLogger(__name__)

Kind = Literal["hits", "near"]
_Share = Annotated[float, Field(ge=0, le=1)]


class AuditConfig(Section):
    """How the bound on wrong hits is kept while the gateway runs.

    Attributes:
        share: Of the hits by meaning, how many a tier answers as well, in the background and at its price.
        near_share: Of the misses just below the threshold, how many have their answer compared with the stored one.
        max_error_rate: Highest share of wrong hits; by default what the calibration was made for.
        confidence: Of the interval whose lower end must stay under it.
        judge: A tier or model that compares answers in free text; null leaves that to encoder and verifier.
        concurrency: Checks under way at once in a replica; beyond it hits go unchecked.
    """

    share: _Share = 0.01
    near_share: _Share = 0.1
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    judge: str | None = None
    concurrency: PositiveInt = 4


class Bounds(Protocol):
    """What checks say of each scope's hits, and how its threshold moves. `app/cache/bounds.py` has it in Redis."""

    async def add(
        self, scope: str, kind: Kind, correct: bool, everywhere: bool = True
    ) -> tuple[Bound, tuple[int, int]]:
        """Count a check, of its scope and by default of all; move the thresholds that it calls for.

        Returns:
            What is known of all scopes together, and the steps taken by the scope and by all.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fresh:
    """An answer asked for to check another, and what it cost."""

    completion: Completion
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a stored answer serves, None where that could not be told; and what telling cost."""

    correct: bool | None
    cost_usd: float = 0.0


Judge = Callable[[ChatRequest, Completion, Completion], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class Audit:
    """One check.

    Attributes:
        kind: `hits` for a checked hit, `near` for a miss just below the threshold.
        correct: Whether the stored answer serves; None where that could not be told.
        cost_usd: Of the fresh answer and the judge; for a miss, which had to be answered anyway, of the judge alone.
        bound: What is known of all scopes together since; None where nothing was counted.
        moved: The step that the scope's threshold took, and that of all scopes.
        tenant: Whose request it was.
        tier: What gave the stored answer; empty where that is not known.
    """

    kind: Kind
    correct: bool | None
    cost_usd: float
    bound: Bound | None
    moved: tuple[int, int] = (0, 0)
    tenant: str = ""
    tier: str = ""


class Auditor:
    """Draws what is checked, checks it in tasks of its own, and has wrong entries evicted.

    Args:
        ask: Answers a request by the tiers, past the cache.
        judge: Says whether a stored answer may stand for a fresh one; None leaves that to the cache's models.
        on_audit: Called with every check.
        draw: Uniform in [0, 1).
    """

    def __init__(
        self,
        config: AuditConfig,
        exact: ExactCache,
        cache: SemanticCache,
        bounds: Bounds,
        ask: Callable[[ChatRequest], Awaitable[Fresh]],
        storable: Callable[[ChatRequest, Completion], bool],
        judge: Judge | None = None,
        on_audit: Callable[[Audit], None] = lambda audit: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._exact = exact
        self._cache = cache
        self._bounds = bounds
        self._ask = ask
        self._storable = storable
        self._judge = judge
        self._on_audit = on_audit
        self._draw = draw
        self._checks = Background()

    def hit(self, request: ChatRequest, key: CacheKey, lookup: CacheLookup) -> None:
        """Take note of a hit; one in `1/share` of those by meaning is checked."""
        if lookup.reason != "exact" and lookup.entry is not None and self._drawn(self._config.share):
            self._checks.start(self._guarded(self._check_hit(request, key, lookup, lookup.entry)))

    def miss(self, request: ChatRequest, key: CacheKey, lookup: CacheLookup, completion: Completion) -> None:
        """Take note of a miss that was answered; one in `1/near_share` of those with a near entry is compared."""
        if lookup.near is not None and self._drawn(self._config.near_share):
            self._checks.start(self._guarded(self._check_near(request, key, lookup.near, completion)))

    async def report(self, scope: str, correct: bool) -> None:
        """Count a client's verdict on a hit as a check of its own scope: it must not move what others get."""
        await self._count("hits", scope, Verdict(correct), everywhere=False)

    async def drain(self) -> None:
        """Wait for the checks under way."""
        await self._checks.drain()

    def _drawn(self, share: float) -> bool:
        return len(self._checks) < self._config.concurrency and self._draw() < share

    async def _guarded(self, check: Coroutine[Any, Any, None]) -> None:
        try:
            await check
        except GatewayError as error:
            log.warning("a cached answer could not be checked: %s", type(error).__name__)  # it may quote the request

    async def _check_hit(self, request: ChatRequest, key: CacheKey, lookup: CacheLookup, stored: CacheEntry) -> None:
        fresh = await self._ask(request)
        verdict = await self._compare(request, stored.completion, fresh.completion)
        if verdict.correct is False and lookup.entry_id is not None:
            await self._exact.forget(CacheKey.named(lookup.entry_id), stored.tenant)
        cost = verdict.cost_usd + fresh.cost_usd
        await self._count("hits", key.scope, Verdict(verdict.correct, cost), stored)

    async def _check_near(self, request: ChatRequest, key: CacheKey, stored: CacheEntry, fresh: Completion) -> None:
        await self._count("near", key.scope, await self._compare(request, stored.completion, fresh), stored)

    async def _count(
        self, kind: Kind, scope: str, verdict: Verdict, stored: CacheEntry | None = None, *, everywhere: bool = True
    ) -> None:
        whose = (stored.tenant, stored.tier) if stored else ("", "")
        if verdict.correct is None:
            self._on_audit(Audit(kind, None, verdict.cost_usd, None, (0, 0), *whose))
            return
        bound, moved = await self._bounds.add(scope, kind, verdict.correct, everywhere)
        self._on_audit(Audit(kind, verdict.correct, verdict.cost_usd, bound, moved, *whose))

    async def _compare(self, request: ChatRequest, stored: Completion, fresh: Completion) -> Verdict:
        """Say whether a stored answer may stand for the fresh one; not where the fresh one is no answer."""
        if not self._storable(request, fresh):
            return Verdict(None)
        told = settled_answers(request.body, stored.body, fresh.body)
        if told is not None:
            return Verdict(told)
        if self._judge is not None:
            return await self._judge(request, stored, fresh)
        return Verdict(await self._cache.agree(answer_text(stored.body), answer_text(fresh.body)))
