"""TrafficController: the path of a request, written once against the protocols."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from app.cache import cache_key
from app.cache.audit import Audit, Auditor, Bounds, Fresh
from app.cache.judge import judge_by
from app.cache.policy import lookup_refusal, storable
from app.config import GatewayConfig
from app.errors import (
    CacheUnavailableError,
    ClassifierUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    UnavailableError,
    UpstreamError,
)
from app.pricing import cost_usd
from app.protocols import ChatProvider, ComplexityClassifier, ExactCache, SemanticCache
from app.routing import TierConfig, pinned, plan
from app.schema import CacheEntry, CacheKey, CacheLookup, ChatRequest, Completion, Outcome, Streaming, StreamPart
from app.wire import ChunkAssembler

log = logging.getLogger(__name__)
T = TypeVar("T")


class TrafficController:
    """Takes each request along the cheapest path that still answers it well.

    Args:
        exact: Looked up before the semantic cache; None runs without any cache.
        cache: Asked when `exact` has nothing.
        classifier: Scores what the cache cannot answer.
        providers: By tier name.
        on_end: Called with the Outcome of every answered request, streams included, after the answer.
        bounds: Counts the checks of hits; None leaves them unchecked.
        on_audit: Called with every such check.
    """

    def __init__(
        self,
        config: GatewayConfig,
        exact: ExactCache | None,
        cache: SemanticCache | None,
        classifier: ComplexityClassifier,
        providers: Mapping[str, ChatProvider],
        on_end: Callable[[Outcome], None] = lambda outcome: None,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
        bounds: Bounds | None = None,
        on_audit: Callable[[Audit], None] = lambda audit: None,
    ) -> None:
        self._config = config
        self._exact = exact
        self._cache = cache
        self._classifier = classifier
        self._providers = providers
        self._on_end = on_end
        self._clock = clock
        self._now = now
        self._prices = config.prices()
        self._baseline = config.baseline_price()
        self._tool_tiers = config.tool_tiers()
        self._writes: set[asyncio.Task[None]] = set()
        self._auditor: Auditor | None = None
        if exact is not None and cache is not None and bounds is not None:
            self._auditor = Auditor(
                config.cache.audit,
                exact,
                cache,
                bounds,
                self._past_the_cache,
                lambda request, completion: storable(request, completion, config.cache),
                judge_by(self._judged, config.cache.audit.judge) if config.cache.audit.judge else None,
                on_audit,
            )

    async def handle(self, request: ChatRequest) -> Outcome:
        """Answer a request in one piece.

        Raises:
            InvalidRequestError: The request cannot be served; says what to change.
            UnavailableError: No tier answered.
        """
        started = self._clock()
        self._check_model(request)
        key, lookup = await self._lookup(request)
        if lookup.entry:
            return self._end(self._hit(request, key, lookup, lookup.entry, started))

        tiers, score, route = await self._route(request)
        completion, tier, attempts = await self._first_answer(
            tiers, lambda tier: self._providers[tier.name].complete(_addressed(request, tier, route))
        )
        self._store_later(request, key, lookup, completion, tier)
        return self._end(self._answered(lookup, completion, tier, score, route, attempts, started))

    async def stream(self, request: ChatRequest) -> Streaming | Outcome:
        """Answer a request piece by piece: a Streaming once the first chunk has come, or the Outcome of a hit.

        Raises as `handle` does; a failure after the first chunk is raised by the parts.
        """
        started = self._clock()
        self._check_model(request)
        key, lookup = await self._lookup(request)
        if lookup.entry:
            return self._end(self._hit(request, key, lookup, lookup.entry, started))

        tiers, score, route = await self._route(request)
        (first, rest), tier, attempts = await self._first_answer(
            tiers, lambda tier: _opened(self._providers[tier.name].stream(_addressed(request, tier, route)))
        )

        async def parts() -> AsyncGenerator[StreamPart, None]:
            assembler = ChunkAssembler()
            finished = False
            try:
                part: StreamPart | None = first
                while part is not None:
                    for chunk in part.chunks:
                        assembler.add(chunk)
                    yield part
                    part = await anext(rest, None)
                finished = True
            finally:
                await rest.aclose()
                completion = Completion(assembler.completion(), first.target)
                if finished:
                    self._store_later(request, key, lookup, completion, tier)
                self._end(self._answered(lookup, completion, tier, score, route, attempts, started, finished))

        return Streaming(tier.name, first.target, lookup, score, attempts, route, parts())

    async def drain(self) -> None:
        """Wait for the cache writes and checks under way."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        if self._auditor is not None:
            await self._auditor.drain()

    def _check_model(self, request: ChatRequest) -> None:
        if request.model not in self._config.auto_models:
            pinned(request.model, self._config.tiers)

    async def _lookup(self, request: ChatRequest) -> tuple[CacheKey | None, CacheLookup]:
        """Look exactly, then by meaning. A cache that is down costs a miss."""
        if self._exact is None:
            return None, CacheLookup("bypass", "no cache")
        key = cache_key(request.body, request.tenant)
        if refusal := lookup_refusal(request, self._config.cache):
            return key, CacheLookup("bypass", refusal)
        try:
            entry = await self._exact.get(key)
            if entry is not None:
                found = CacheLookup("hit", "exact", 1.0, None, entry, entry_id=f"{key.scope}.{key.entry}")
            elif self._cache is None or not key.semantic:
                found = CacheLookup("miss", "exact only")
            else:
                found = await self._cache.lookup(key)
            return key, self._young_enough(request, found)
        except CacheUnavailableError as error:
            log.warning("cache unavailable: %s", error.message)
            return key, CacheLookup("miss", "cache unavailable")

    def _young_enough(self, request: ChatRequest, found: CacheLookup) -> CacheLookup:
        """Turn a hit that is older than the client takes into a miss."""
        if request.max_age_s is None or found.entry is None or self._now() - found.entry.created <= request.max_age_s:
            return found
        return CacheLookup("miss", "older than max-age", found.similarity, found.evidence, None, found.embedding)

    async def forget(self, entry_id: str, tenant: str) -> bool:
        """Evict a stored answer of the tenant; False if it has none of that name.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        scope, _, entry = entry_id.partition(".")
        return self._exact is not None and await self._exact.forget(CacheKey(scope, entry, "", False), tenant)

    async def report(self, entry_id: str, correct: bool, tenant: str) -> bool:
        """Count a tenant's verdict on a stored answer of its own, evict a wrong one; False if it has none of that name.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        scope, _, entry = entry_id.partition(".")
        key = CacheKey(scope, entry, "", False)
        stored = await self._exact.get(key) if self._exact is not None else None
        if self._exact is None or stored is None or stored.tenant != tenant:
            return False
        if not correct:
            await self._exact.forget(key, tenant)
        if self._auditor is not None:
            await self._auditor.report(scope, correct)
        return True

    async def _past_the_cache(self, request: ChatRequest) -> Fresh:
        """Answer a request by the tiers, in one piece, to check what the cache answered."""
        body = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
        whole = replace(request, body=body)
        tiers, _, route = await self._route(whole)
        completion, _, _ = await self._first_answer(
            tiers, lambda tier: self._providers[tier.name].complete(_addressed(whole, tier, route))
        )
        return Fresh(completion, cost_usd(completion.usage, self._prices[completion.target]))

    async def _judged(self, body: Mapping[str, Any]) -> Fresh:
        (tier,) = pinned(str(body["model"]), self._config.tiers)
        completion = await self._providers[tier.name].complete(body)
        return Fresh(completion, cost_usd(completion.usage, self._prices[completion.target]))

    async def _route(self, request: ChatRequest) -> tuple[tuple[TierConfig, ...], float | None, str]:
        """Return the tiers to try, the score and why. A classifier that is down costs the top tier."""
        tiers = self._config.tiers
        if request.model not in self._config.auto_models:
            return self._able(request, pinned(request.model, tiers)), None, "pinned"
        try:
            score = await self._classifier.score(request.prompt)
        except ClassifierUnavailableError as error:
            log.warning("classifier unavailable, asking the top tier: %s", error.message)
            return self._able(request, tiers[-1:]), None, "unclassified"
        return self._able(request, plan(score, tiers)), score, "score"

    def _able(self, request: ChatRequest, tiers: tuple[TierConfig, ...]) -> tuple[TierConfig, ...]:
        """Leave out the tiers that cannot call tools, if the request has any."""
        if not request.body.get("tools"):
            return tiers
        able = tuple(tier for tier in tiers if tier.name in self._tool_tiers)
        if not able:
            names = ", ".join(sorted(self._tool_tiers)) or "none that is configured; set the API key of one"
            raise InvalidRequestError(f"`tools` are not supported here. Tiers that support them: {names}.", "tools")
        return able

    async def _first_answer(
        self, tiers: tuple[TierConfig, ...], ask: Callable[[TierConfig], Coroutine[Any, Any, T]]
    ) -> tuple[T, TierConfig, int]:
        """Ask the tiers in turn; a prompt too long for one goes to the next as well."""
        too_long: ContextLengthError | None = None
        for attempt, tier in enumerate(tiers, 1):
            try:
                return await ask(tier), tier, attempt
            except UpstreamError as error:
                log.warning("tier %s failed: %s", tier.name, error.message)
            except ContextLengthError as error:
                too_long = error
        if too_long is not None:
            raise too_long
        names = ", ".join(tier.name for tier in tiers)
        raise UnavailableError(f"No model answered (tried: {names}). Try again in {UnavailableError.retry_after_s} s.")

    def _hit(
        self, request: ChatRequest, key: CacheKey | None, lookup: CacheLookup, entry: CacheEntry, started: float
    ) -> Outcome:
        if self._auditor is not None and key is not None:
            self._auditor.hit(request, key, lookup)
        saved = cost_usd(entry.completion.usage, self._baseline)
        latency_s = self._clock() - started
        return Outcome(entry.completion, "cache", lookup, None, 0, 0.0, saved, latency_s, "cache")

    def _answered(
        self,
        lookup: CacheLookup,
        completion: Completion,
        tier: TierConfig,
        score: float | None,
        route: str,
        attempts: int,
        started: float,
        finished: bool = True,
    ) -> Outcome:
        cost = cost_usd(completion.usage, self._prices[completion.target])
        saved = cost_usd(completion.usage, self._baseline) - cost
        latency_s = self._clock() - started
        return Outcome(completion, tier.name, lookup, score, attempts, cost, saved, latency_s, route, finished)

    def _end(self, outcome: Outcome) -> Outcome:
        self._on_end(outcome)
        return outcome

    def _store_later(
        self,
        request: ChatRequest,
        key: CacheKey | None,
        lookup: CacheLookup,
        completion: Completion,
        tier: TierConfig,
    ) -> None:
        """Write after the response, off its path."""
        if self._exact is None or key is None or not storable(request, completion, self._config.cache):
            return
        if self._auditor is not None:
            self._auditor.miss(request, key, lookup, completion)
        entry = CacheEntry(key.text, completion, tier.name, request.tenant, self._now())
        task = asyncio.create_task(self._write(self._exact, key, entry, lookup))
        self._writes.add(task)  # the event loop alone would keep only a weak reference
        task.add_done_callback(self._writes.discard)

    @staticmethod
    async def _write(exact: ExactCache, key: CacheKey, entry: CacheEntry, lookup: CacheLookup) -> None:
        try:
            await exact.put(key, entry, lookup.embedding)
        except CacheUnavailableError as error:
            log.warning("an answer was not cached: %s", error.message)


def _addressed(request: ChatRequest, tier: TierConfig, route: str) -> Mapping[str, Any]:
    """Name the tier as the model of a routed request: any of its targets may answer."""
    return request.body if route == "pinned" else {**request.body, "model": tier.name}


async def _opened(
    stream: AsyncGenerator[StreamPart, None],
) -> tuple[StreamPart, AsyncGenerator[StreamPart, None]]:
    """Wait for a stream's first part, so that a failure before it can still go to another tier."""
    try:
        return await anext(stream), stream
    except StopAsyncIteration:
        raise UpstreamError("the stream ended before its first chunk", "stream") from None
    except BaseException:
        await stream.aclose()
        raise
