"""TrafficController: the path of a request, written once against the protocols."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from app.admission import Admission
from app.asking import Asked, Asker
from app.background import Background
from app.cache import cache_key
from app.cache.audit import Audit, Auditor, Bounds, Fresh
from app.cache.coalesce import Coalescer, Event, Lead
from app.cache.judge import judge_by
from app.cache.policy import lookup_refusal, storable
from app.config import GatewayConfig
from app.errors import CacheUnavailableError, GatewayError, UnavailableError, UpstreamError
from app.pricing import cost_usd
from app.protocols import ChatProvider, ComplexityClassifier, Conversations, ExactCache, FlightRelay, SemanticCache
from app.quality.audit import QualityAuditor, QualityBounds, QualityCheck
from app.quality.judge import preferred_by
from app.router import Router
from app.routing import Route, TierConfig, pinned
from app.schema import (
    NOBODY,
    CacheEntry,
    CacheKey,
    CacheLookup,
    ChatRequest,
    Completion,
    Outcome,
    Streaming,
    StreamPart,
)
from app.shaping.schema import Fate, fault, structured
from app.wire import ChunkAssembler

log = logging.getLogger(__name__)
T = TypeVar("T")
_NOT_EXACT = CacheLookup("miss", "exact only")  # what may still be found by meaning
_COALESCED = CacheLookup("hit", "coalesced")


@dataclass(slots=True)
class _Call:
    """A request that the exact cache did not answer, and what its own call made of it.

    Attributes:
        route: Where its call goes.
        cascade: What became of the cheaper tier's answer: `kept`, or why it was not; None if it was not asked.
        tried_usd: What that answer cost, if it was not kept.
        wasted_usd: What answers cost that were not the JSON asked for, or cut.
        schema: What became of the answer, where JSON was asked for.
        begun: Once its call streams, what a Streaming holds before its parts.
        outcome: Of its call. Route, begun and outcome stay None when another request's call gives the answer.
        last: When the last stage ended;
        stages: and what each took.
        asking: Whether its own call is under way.
        left: Whether its client has gone away.
        error: What broke its stream off.
    """

    request: ChatRequest
    key: CacheKey | None
    lookup: CacheLookup
    started: float
    route: Route | None = None
    cascade: str | None = None
    tried_usd: float = 0.0
    wasted_usd: float = 0.0
    schema: Fate | None = None
    begun: tuple[str, str, CacheLookup, float | None, int, str, str | None] | None = None
    outcome: Outcome | None = None
    last: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    asking: bool = False
    left: bool = False
    error: str | None = None

    def lap(self, stage: str, now: float) -> None:
        """End a stage."""
        self.stages[stage] = now - (self.last or self.started)
        self.last = now

    @property
    def tried_in_vain(self) -> bool:
        """Whether a cheaper tier was asked whose answer was not kept."""
        return self.cascade not in (None, "kept")


class TrafficController:
    """Takes each request along the cheapest path that still answers it well.

    Args:
        exact: Looked up before the semantic cache; None runs without any cache.
        cache: Asked when `exact` has nothing.
        classifier: Scores what the cache cannot answer.
        providers: By tier name.
        on_end: Called with the Outcome of every answered request, streams included, after the answer.
        relay: Tells other replicas of calls under way; None coalesces within this one.
        bounds: Counts the checks of hits; None leaves them unchecked.
        on_audit: Called with every such check.
        conversations: Remembers the tier that each has reached; None lets every turn stand for itself.
        quality: Counts the checks of answers routed down; None leaves them unchecked.
        on_check: Called with every such check.
        admission: Shared with another controller; None has one of its own.
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
        relay: FlightRelay | None = None,
        bounds: Bounds | None = None,
        on_audit: Callable[[Audit], None] = lambda audit: None,
        conversations: Conversations | None = None,
        quality: QualityBounds | None = None,
        on_check: Callable[[QualityCheck], None] = lambda check: None,
        admission: Admission | None = None,
    ) -> None:
        self._config = config
        self._exact = exact
        self._cache = cache
        self._router = Router(config, classifier, conversations, quality)
        self._on_end = on_end
        self._clock = clock
        self._now = now
        self._prices = config.prices()
        self._baseline = config.baseline_price()
        local = {tier.name for tier in config.tiers if tier.llm} | config.stand_ins().keys()
        self._asker = Asker(providers, self._prices, local)
        self._timeouts_s = {tier.name: config.timeout_s(tier.name) for tier in config.tiers}
        self._coalescer = Coalescer(relay) if exact is not None and config.cache.coalesce else None
        self._admission = admission or Admission(config.overload)
        self._writes = Background()
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
        self.quality: QualityAuditor | None = None
        best = config.tiers[-1]
        if quality is not None and best.name not in config.stand_ins():
            judge = config.routing.quality.judge
            self.quality = QualityAuditor(
                config.routing.quality,
                quality,
                best.name,
                self._by_the_best,
                preferred_by(self._judged, judge) if judge else None,
                on_check,
            )

    async def handle(self, request: ChatRequest) -> Outcome:
        """Answer a request in one piece.

        Raises:
            InvalidRequestError: The request cannot be served; says what to change.
            UnavailableError: No tier answered.
        """
        call = await self._begin(request)
        if call.lookup.entry:
            return self._end(self._hit(call, call.lookup, call.lookup.entry.completion))
        async with self._attended(call), aclosing(self._events(call, streamed=False)) as events:
            outcome = await _in_time(anext(events), request.timeout_s)
        assert isinstance(outcome, Outcome)
        return self._concluded(call, outcome)

    async def stream(self, request: ChatRequest) -> Streaming | Outcome:
        """Answer a request piece by piece: a Streaming once the first chunk has come, or the Outcome of a whole answer.

        Raises as `handle` does; a failure after the first chunk is raised by the parts.
        """
        call = await self._begin(request)
        if call.lookup.entry:
            return self._end(self._hit(call, call.lookup, call.lookup.entry.completion))
        events = self._events(call, streamed=True)
        try:
            async with self._attended(call):
                first = await _in_time(anext(events), request.timeout_s)
        except BaseException:
            await events.aclose()
            raise
        if isinstance(first, Outcome):
            await events.aclose()
            return self._concluded(call, first)
        begun = call.begun or ("cache", first.target, _COALESCED, None, 0, "cache", None)
        return Streaming(*begun, self._parts(call, first, events))

    async def drain(self) -> None:
        """Wait for the calls, the cache writes and the checks under way."""
        if self._coalescer is not None:
            await self._coalescer.drain()
        await self._writes.drain()
        await self._router.drain()
        for auditor in (self._auditor, self.quality):
            if auditor is not None:
                await auditor.drain()

    async def _begin(self, request: ChatRequest) -> _Call:
        """Check the model and look for exactly this request."""
        started = self._clock()
        self._router.candidates(request)  # an unknown model is refused before anything is looked up
        if self._exact is None:
            return _Call(request, None, CacheLookup("bypass", "no cache"), started)
        # the stable side's entries are those from before the canary
        space = request.arm if request.arm == "canary" else ""
        key = cache_key(request.body, request.tenant, space)
        if refusal := lookup_refusal(request, self._config.cache):
            return _Call(request, key, CacheLookup("bypass", refusal), started)
        call = _Call(request, key, await self._look_exactly(self._exact, request, key), started)
        call.lap("exact", self._clock())
        return call

    async def _look_exactly(self, exact: ExactCache, request: ChatRequest, key: CacheKey) -> CacheLookup:
        """Look for the key's own entry. A cache that is down costs a miss."""
        try:
            entry = await exact.get(key)
        except CacheUnavailableError as error:
            log.warning("cache unavailable: %s", error.message)
            return CacheLookup("miss", "cache unavailable")
        if entry is None:
            return _NOT_EXACT
        found = CacheLookup("hit", "exact", 1.0, None, entry, entry_id=key.entry_id)
        return self._young_enough(request, found)

    async def _look_by_meaning(self, call: _Call) -> CacheLookup:
        """Look for an entry of the same meaning. A cache that is down costs a miss."""
        if self._cache is None or call.key is None or not call.key.semantic:
            return call.lookup
        try:
            return self._young_enough(call.request, await self._cache.lookup(call.key))
        except CacheUnavailableError as error:
            log.warning("cache unavailable: %s", error.message)
            return CacheLookup("miss", "cache unavailable")

    def _young_enough(self, request: ChatRequest, found: CacheLookup) -> CacheLookup:
        """Turn a hit that is older than the client takes into a miss."""
        if request.max_age_s is None or found.entry is None or self._now() - found.entry.created <= request.max_age_s:
            return found
        return CacheLookup("miss", "older than max-age", found.similarity, found.evidence, None, found.embedding)

    async def forget(self, entry_id: str, tenant: str | None) -> bool:
        """Evict a stored answer of the tenant, or of anybody for None; False if there is none of that name.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        return self._exact is not None and await self._exact.forget(CacheKey.named(entry_id), tenant)

    async def report(self, entry_id: str, correct: bool, tenant: str | None) -> bool:
        """Count the verdict on a stored answer of the tenant, or of anybody for None; evict a wrong one.

        Returns:
            False if there is none of that name.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        if self._exact is None:
            return False
        key = CacheKey.named(entry_id)
        if correct:
            stored = await self._exact.get(key)
            there = stored is not None and tenant in (None, stored.tenant)
        else:
            there = await self._exact.forget(key, tenant)
        if there and self._auditor is not None:
            await self._auditor.report(key.scope, correct)
        return there

    async def _past_the_cache(self, request: ChatRequest) -> Fresh:
        """Answer a request by the tiers, in one piece, to check what the cache answered."""
        route = await self._router.route(replace(request, allowance=None))  # it is not the tenant who pays
        return _fresh(await self._asker.whole(request, route.tiers, pinned=route.reason == "pinned"))

    async def _by_the_best(self, request: ChatRequest) -> Fresh:
        """Answer a request by the best tier, in one piece, to check what a cheaper one answered."""
        return _fresh(await self._asker.whole(request, self._config.tiers[-1:]))

    async def _judged(self, body: Mapping[str, Any]) -> Fresh:
        return _fresh(await self._asker.complete(pinned(str(body["model"]), self._config.tiers), body))

    @asynccontextmanager
    async def _attended(self, call: _Call) -> AsyncIterator[None]:
        """Account for a request whose client goes away before the answer, unless its own call goes on for others."""
        try:
            yield
        except asyncio.CancelledError:
            call.left = True
            if not call.asking:
                self._give_up(call)
            raise

    def _events(self, call: _Call, streamed: bool) -> AsyncGenerator[Event, None]:
        """Ask, or follow an identical request that does: only one that the cache could have answered."""
        if self._coalescer is None or call.key is None or call.lookup.status != "miss":
            return self._ask(call, streamed)
        max_age_s = call.request.max_age_s
        # a hit may be too old for one client and not for another; the entry is the text's digest
        entry = call.key.entry if max_age_s is None else f"{call.key.entry}:{max_age_s:g}"
        key = replace(call.key, entry=entry, text="")
        # what its own call may take
        patience_s = self._config.overload.max_wait_s + sum(
            self._timeouts_s[tier.name] for tier in self._router.candidates(call.request)
        )
        return self._coalescer.events(key, lambda lead: self._ask(call, streamed, lead), streamed, patience_s)

    async def _ask(self, call: _Call, streamed: bool, lead: Lead | None = None) -> AsyncGenerator[Event, None]:
        """Make the request's own call, once there is room for it.

        If it ends without an answer and its client has gone, it is accounted for here.
        """
        call.asking = True
        try:
            async with (
                self._admission.slot(call.request.tenant),
                aclosing(self._answer(call, streamed, lead)) as events,
            ):
                async for event in events:
                    yield event
        finally:
            call.asking = False
            if call.left:
                self._give_up(call)

    async def _answer(self, call: _Call, streamed: bool, lead: Lead | None) -> AsyncGenerator[Event, None]:
        """Look by meaning, else ask a tier and store its answer: the parts of a stream, then the Outcome.

        Args:
            lead: Ends it if another replica makes this very call; says whether an answer was stored meanwhile.
        """
        if call.lookup is _NOT_EXACT:
            call.lookup = await self._look_by_meaning(call)
            call.lap("semantic", self._clock())
        if not call.lookup.entry and lead is not None and await lead() and self._exact is not None and call.key:
            found = await self._look_exactly(self._exact, call.request, call.key)
            call.lookup = found if found.entry else call.lookup
        if call.lookup.entry:
            call.outcome = self._end(self._hit(call, call.lookup, call.lookup.entry.completion))
            yield call.outcome
            return
        call.route = route = await self._router.route(call.request)
        call.lap("route", self._clock())
        kept = await self._try_cheaper(call, route.cheaper) if route.cheaper else None
        asked = self._ask_streamed(call, route) if streamed and kept is None else self._ask_plainly(call, route, kept)
        async with aclosing(asked) as events:
            async for event in events:
                yield event

    async def _try_cheaper(self, call: _Call, tier: TierConfig) -> Asked | None:
        """Ask the tier below a near cut point; its answer is kept only if it passes the checks of a cascade."""
        probability = self._config.routing.cascade.min_token_probability
        asked, call.cascade = await self._asker.cheaper(call.request, tier, probability)
        if call.cascade == "kept":
            return asked
        call.tried_usd = asked.cost_usd + asked.wasted_usd if asked else 0.0
        return None

    async def _ask_plainly(self, call: _Call, route: Route, kept: Asked | None) -> AsyncGenerator[Event, None]:
        asked = kept or await self._asker.whole(call.request, route.tiers, pinned=route.reason == "pinned")
        call.schema, call.wasted_usd = asked.schema, asked.wasted_usd
        write = self._given(call, asked.completion, asked.tier, asked.attempts + call.tried_in_vain)
        if call.outcome is not None:
            yield call.outcome
        if write is not None:
            await write

    async def _ask_streamed(self, call: _Call, route: Route) -> AsyncGenerator[Event, None]:
        (first, rest), tier, attempts = await self._asker.opened(
            call.request, route.tiers, pinned=route.reason == "pinned"
        )
        call.lap("model", self._clock())
        attempts += call.tried_in_vain
        call.begun = (tier.name, first.target, call.lookup, route.score, attempts, route.reason, call.cascade)
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
        except GatewayError as error:
            call.error = error.type
            raise
        finally:
            await rest.aclose()
            completion = Completion(assembler.completion(), first.target, first.also)
            wrong = fault(call.request.body, completion.body) if finished else None
            if finished and structured(call.request.body):
                call.schema = "invalid" if wrong else "valid"
            if wrong:
                call.error = UpstreamError.type
            write = self._given(call, completion, tier, attempts, finished and wrong is None)
        if wrong is not None:
            raise UpstreamError(f"the answer cannot be used: {wrong}", tier.name)
        if call.outcome is not None:
            yield call.outcome
        if write is not None:
            await write

    async def _parts(
        self, call: _Call, first: StreamPart, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[StreamPart, None]:
        """Pass a stream on; if another request's call gives it, account for it at its end."""
        came: list[StreamPart] = []
        event: Event = first
        try:
            while isinstance(event, StreamPart):
                came.append(event)
                yield event
                event = await anext(events)
        except GatewayError as error:
            call.error = error.type
            raise
        finally:
            await events.aclose()
            if call.begun is None:
                self._end(self._coalesced(call, event) if isinstance(event, Outcome) else self._cut_off(call, came))

    def _concluded(self, call: _Call, outcome: Outcome) -> Outcome:
        """Return the request's outcome: that of its own call, or one that follows from another's."""
        return outcome if outcome is call.outcome else self._end(self._coalesced(call, outcome))

    def _coalesced(self, call: _Call, outcome: Outcome) -> Outcome:
        """Account for the answer of another request's call; a hit of that one is this one's too."""
        if outcome.cache.status == "hit":
            return self._hit(call, outcome.cache, outcome.completion)
        lookup = _COALESCED
        if call.key is not None and storable(call.request, outcome.completion, self._config.cache):
            lookup = replace(lookup, entry_id=call.key.entry_id)
        return self._hit(call, lookup, outcome.completion)

    def _cut_off(self, call: _Call, came: list[StreamPart]) -> Outcome:
        """Account for as much of another request's stream as came."""
        assembler = ChunkAssembler()
        for chunk in [chunk for part in came for chunk in part.chunks]:
            assembler.add(chunk)
        return replace(self._hit(call, _COALESCED, Completion(assembler.completion(), came[0].target)), finished=False)

    def _hit(self, call: _Call, lookup: CacheLookup, completion: Completion) -> Outcome:
        if self._auditor is not None and call.key is not None:
            self._auditor.hit(call.request, call.key, lookup)
        if lookup.entry is not None and lookup.reason != "exact":  # the very same turn was noted when it was answered
            self._router.answered(call.request, completion, lookup.entry.tier)
        saved = cost_usd(completion.usage, self._baseline)
        if call.lookup is not lookup:
            call.lap("wait", self._clock())
        return self._outcome(call, completion, "cache", lookup, None, 0, 0.0, saved, "cache")

    def _outcome(
        self,
        call: _Call,
        completion: Completion,
        tier: str,
        lookup: CacheLookup,
        score: float | None,
        attempts: int,
        cost: float,
        saved: float,
        route: str,
        finished: bool = True,
        cascade_saved: float = 0.0,
    ) -> Outcome:
        request = call.request
        return Outcome(
            completion,
            tier,
            lookup,
            score,
            attempts,
            cost,
            saved,
            (call.last or self._clock()) - call.started,
            route,
            finished,
            request.tenant,
            request.request_id,
            call.cascade,
            cascade_saved,
            call.schema,
            request.endpoint,
            request.prompt,
            call.stages,
            call.error,
            request.arm,
        )

    def _give_up(self, call: _Call) -> None:
        """Account for a request that its client left before there was an answer."""
        if call.outcome is not None:
            return
        call.lap("wait", self._clock())
        route, spent = call.route, call.tried_usd + call.wasted_usd
        why, score = (route.reason, route.score) if route else ("", None)
        call.outcome = self._end(
            self._outcome(call, Completion({}, ""), NOBODY, call.lookup, score, 0, spent, -spent, why, finished=False)
        )

    def _given(
        self, call: _Call, completion: Completion, tier: TierConfig, attempts: int, finished: bool = True
    ) -> asyncio.Task[None] | None:
        """Account for a tier's answer; store it, remember its tier and have it checked, off the path."""
        assert call.route is not None
        call.outcome = self._end(self._answered(call, call.route, completion, tier, attempts, finished))
        if not finished:
            return None
        self._router.answered(call.request, completion, tier.name)
        if self.quality is not None and call.route.score is not None:
            self.quality.answered(call.request, tier.name, completion)
        return self._store_later(call, completion, tier)

    def _answered(
        self, call: _Call, route: Route, completion: Completion, tier: TierConfig, attempts: int, finished: bool
    ) -> Outcome:
        usage = completion.usage
        answer_usd = cost_usd(usage, self._prices[completion.target])
        prompt = replace(usage, completion_tokens=0)
        beside_usd = sum(cost_usd(prompt, self._prices[model]) for model in completion.also)
        cost = answer_usd + beside_usd + call.tried_usd + call.wasted_usd
        dearer_usd = cost_usd(usage, self._prices[next(iter(route.tiers[0].models()))])
        cascade_saved = dearer_usd - answer_usd if call.cascade == "kept" else -call.tried_usd
        saved = cost_usd(usage, self._baseline) - cost
        call.lap("stream" if call.begun else "model", self._clock())
        return self._outcome(
            call,
            completion,
            tier.name,
            call.lookup,
            route.score,
            attempts,
            cost,
            saved,
            route.reason,
            finished,
            cascade_saved,
        )

    def _end(self, outcome: Outcome) -> Outcome:
        self._on_end(outcome)
        return outcome

    def _store_later(self, call: _Call, completion: Completion, tier: TierConfig) -> asyncio.Task[None] | None:
        """Write after the response, off its path."""
        request, key = call.request, call.key
        if self._exact is None or key is None or not storable(request, completion, self._config.cache):
            return None
        if self._auditor is not None:
            self._auditor.miss(request, key, call.lookup, completion)
        entry = CacheEntry(key.text, completion, tier.name, request.tenant, self._now())
        return self._writes.start(self._write(self._exact, key, entry, call.lookup))

    @staticmethod
    async def _write(exact: ExactCache, key: CacheKey, entry: CacheEntry, lookup: CacheLookup) -> None:
        try:
            await exact.put(key, entry, lookup.embedding)
        except CacheUnavailableError as error:
            log.warning("an answer was not cached: %s", error.message)


async def _in_time(event: Awaitable[T], timeout_s: float) -> T:
    """Wait for an answer's first event as long as the client does.

    Raises:
        UnavailableError: It did not come in time.
    """
    try:
        async with asyncio.timeout(None if timeout_s == float("inf") else timeout_s):
            return await event
    except TimeoutError as error:
        raise UnavailableError(f"No answer in the {timeout_s:g} s of x-request-timeout. Allow for more.") from error


def _fresh(asked: Asked) -> Fresh:
    return Fresh(asked.completion, asked.cost_usd + asked.wasted_usd)
