"""TrafficController: the path of a request, written once against the protocols."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from app.accounting import Accounts, Call
from app.admission import Admission
from app.asking import Asked, Asker, Pay
from app.background import Background
from app.cache import request_key
from app.cache.audit import Audit, Auditor, Bounds, Fresh
from app.cache.coalesce import Coalescer, Event, Lead
from app.cache.judge import judge_by
from app.cache.lookups import NOT_EXACT, Lookups
from app.cache.policy import lookup_refusal, storable
from app.config import GatewayConfig
from app.errors import GatewayError, UnavailableError, UpstreamError
from app.protocols import ComplexityClassifier, Conversations, ExactCache, FlightRelay, SemanticCache, TierProvider
from app.quality.audit import QualityAuditor, QualityBounds, QualityCheck
from app.quality.judge import preferred_by
from app.router import Router
from app.routing import Route, TierConfig, pinned
from app.schema import CacheKey, CacheLookup, ChatRequest, Completion, Outcome, Streaming, StreamPart
from app.shaping.schema import checked, fault, structured
from app.wire import ChunkAssembler

T = TypeVar("T")
_COALESCED = CacheLookup("hit", "coalesced")


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
        wake: Says whether a tier runs, and wakes one that has scaled to zero.
    """

    def __init__(
        self,
        config: GatewayConfig,
        exact: ExactCache | None,
        cache: SemanticCache | None,
        classifier: ComplexityClassifier,
        providers: Mapping[str, TierProvider],
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
        wake: Callable[[str], bool] = lambda tier: True,
    ) -> None:
        self._config = config
        self._exact = exact
        self._lookups = Lookups(exact, cache, now)
        self._router = Router(config, classifier, conversations, quality, wake)
        self._clock = clock
        self._accounts = Accounts(config, clock, on_end)
        local = {tier.name for tier in config.tiers if not tier.targets} | config.stand_ins().keys()
        self._asker = Asker(providers, self._accounts.prices, local, clock)
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
                self._may_serve_others,
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
            return self._hit(call, call.lookup, call.lookup.entry.completion)
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
            return self._hit(call, call.lookup, call.lookup.entry.completion)
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

    async def _begin(self, request: ChatRequest) -> Call:
        """Check the model and look for exactly this request."""
        started = self._clock()
        self._router.candidates(request)  # an unknown model is refused before anything is looked up
        if self._exact is None:
            return Call(request, None, CacheLookup("bypass", "no cache"), started)
        # the stable side's entries are those from before the canary
        space = request.arm if request.arm == "canary" else ""
        key = request_key(request, space)
        if refusal := lookup_refusal(request, self._config.cache):
            return Call(request, key, CacheLookup("bypass", refusal), started)
        call = Call(request, key, await self._lookups.exactly(key, request.max_age_s), started)
        call.lap("exact", self._clock())
        return call

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
        pinned = route.reason == "pinned"
        return await _fresh(lambda pay: self._asker.whole(request, route.tiers, pinned=pinned, pay=pay))

    async def _by_the_best(self, request: ChatRequest) -> Fresh:
        """Answer a request by the best tier, in one piece, to check what a cheaper one answered."""
        return await _fresh(lambda pay: self._asker.whole(request, self._config.tiers[-1:], pay=pay))

    async def _judged(self, body: Mapping[str, Any]) -> Fresh:
        tier = pinned(str(body["model"]), self._config.tiers)
        return await _fresh(lambda pay: self._asker.complete(tier, body, pay=pay))

    @asynccontextmanager
    async def _attended(self, call: Call) -> AsyncIterator[None]:
        """Account for a request that ends without an answer.

        A failure says what was spent in vain. Where the client has gone away, its own call may go on for others.
        """
        try:
            yield
        except GatewayError as error:
            if not call.paid_usd or call.outcome is not None:
                raise
            own = copy.copy(error)  # others that wait for the same call get the same error, and have spent nothing
            own.spent_usd, call.paid_usd = call.paid_usd, 0.0
            raise own from error
        except asyncio.CancelledError:
            call.left = True
            if not call.asking:
                self._give_up(call)
            raise

    def _events(self, call: Call, streamed: bool) -> AsyncGenerator[Event, None]:
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

    async def _ask(self, call: Call, streamed: bool, lead: Lead | None = None) -> AsyncGenerator[Event, None]:
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

    async def _answer(self, call: Call, streamed: bool, lead: Lead | None) -> AsyncGenerator[Event, None]:
        """Look by meaning, else ask a tier and store its answer: the parts of a stream, then the Outcome.

        Args:
            lead: Ends it if another replica makes this very call; says whether an answer was stored meanwhile.
        """
        max_age_s = call.request.max_age_s
        if call.lookup is NOT_EXACT and call.key is not None:
            call.lookup = await self._lookups.by_meaning(call.key, max_age_s)
            call.lap("semantic", self._clock())
        if not call.lookup.entry and lead is not None and await lead() and call.key is not None:
            found = await self._lookups.exactly(call.key, max_age_s)
            call.lookup = found if found.entry else call.lookup
        if call.lookup.entry:
            call.outcome = self._hit(call, call.lookup, call.lookup.entry.completion)
            yield call.outcome
            return
        call.route = route = await self._router.route(call.request)
        call.lap("route", self._clock())
        kept = await self._try_cheaper(call, route.cheaper) if route.cheaper else None
        asked = self._ask_streamed(call, route) if streamed and kept is None else self._ask_plainly(call, route, kept)
        async with aclosing(asked) as events:
            async for event in events:
                yield event

    async def _try_cheaper(self, call: Call, tier: TierConfig) -> Asked | None:
        """Ask the tier below a near cut point; its answer is kept only if it passes the checks of a cascade."""
        probability, paid_usd = self._config.routing.cascade.min_token_probability, call.paid_usd
        asked, call.cascade = await self._asker.cheaper(call.request, tier, probability, call.deadline, call.pay)
        if call.cascade == "kept":
            return asked
        call.tried_usd = call.paid_usd - paid_usd if asked else 0.0
        return None

    async def _ask_plainly(self, call: Call, route: Route, kept: Asked | None) -> AsyncGenerator[Event, None]:
        asked = kept or await self._asker.whole(
            call.request, route.tiers, pinned=route.reason == "pinned", deadline=call.deadline, pay=call.pay
        )
        call.schema = asked.schema
        write = self._given(call, asked.completion, asked.tier, asked.attempts + call.tried_in_vain)
        if call.outcome is not None:
            yield call.outcome
        if write is not None:
            await write

    async def _ask_streamed(self, call: Call, route: Route) -> AsyncGenerator[Event, None]:
        (first, rest), tier, attempts = await self._asker.opened(
            call.request, route.tiers, pinned=route.reason == "pinned", deadline=call.deadline
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
            if finished and structured(call.request.body) and checked(completion.body):
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
        self, call: Call, first: StreamPart, events: AsyncGenerator[Event, None]
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
                if isinstance(event, Outcome):
                    self._coalesced(call, event)
                else:
                    self._accounts.cut_off(call, _COALESCED, came)

    def _concluded(self, call: Call, outcome: Outcome) -> Outcome:
        """Return the request's outcome: that of its own call, or one that follows from another's."""
        return outcome if outcome is call.outcome else self._coalesced(call, outcome)

    def _coalesced(self, call: Call, outcome: Outcome) -> Outcome:
        """Account for the answer of another request's call; a hit of that one is this one's too."""
        if outcome.cache.status == "hit":
            return self._hit(call, outcome.cache, outcome.completion)
        lookup = _COALESCED
        if call.key is not None and self._may_serve_others(call.request, outcome.completion):
            lookup = replace(lookup, entry_id=call.key.entry_id)
        return self._hit(call, lookup, outcome.completion)

    def _hit(self, call: Call, lookup: CacheLookup, completion: Completion) -> Outcome:
        if self._auditor is not None and call.key is not None:
            self._auditor.hit(call.request, call.key, lookup)
        if lookup.entry is not None:
            self._router.answered(call.request, completion, lookup.entry.tier)
        return self._accounts.hit(call, lookup, completion)

    def _give_up(self, call: Call) -> None:
        if call.outcome is None:
            call.outcome = self._accounts.given_up(call)

    def _given(
        self, call: Call, completion: Completion, tier: TierConfig, attempts: int, finished: bool = True
    ) -> asyncio.Task[None] | None:
        """Account for a tier's answer; store it, remember its tier and have it checked, off the path."""
        assert call.route is not None
        call.outcome = self._accounts.answered(call, call.route, completion, tier, attempts, finished)
        if not finished:
            return None
        self._router.answered(call.request, completion, tier.name)
        best = self._config.tiers[-1].name
        comparable = not call.request.tiers or best in call.request.tiers
        if self.quality is not None and comparable and self._router.scored(call.request, call.route):
            self.quality.answered(call.request, tier.name, completion)
        return self._store_later(call, completion, tier)

    def _may_serve_others(self, request: ChatRequest, completion: Completion) -> bool:
        """Whether an answer may be stored: one that is not the JSON asked for may not, though its client gets it."""
        return storable(request, completion, self._config.cache) and fault(request.body, completion.body) is None

    def _store_later(self, call: Call, completion: Completion, tier: TierConfig) -> asyncio.Task[None] | None:
        """Write after the response, off its path."""
        request, key = call.request, call.key
        if self._exact is None or key is None or not self._may_serve_others(request, completion):
            return None
        if self._auditor is not None:
            self._auditor.miss(request, key, call.lookup, completion)
        return self._writes.start(self._lookups.write(key, completion, tier.name, request.tenant, call.lookup))


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


async def _fresh(ask: Callable[[Pay], Awaitable[Asked]]) -> Fresh:
    paid: list[float] = []
    asked = await ask(paid.append)
    return Fresh(asked.completion, sum(paid))
