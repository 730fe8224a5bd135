"""What a request cost, what it would have cost, and how long each stage took."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from app.config import GatewayConfig
from app.pricing import cost_usd
from app.routing import Route, TierConfig
from app.schema import NOBODY, CacheKey, CacheLookup, ChatRequest, Completion, Outcome, StreamPart
from app.shaping.schema import Fate
from app.wire import ChunkAssembler


@dataclass(slots=True)
class Call:
    """A request that the exact cache did not answer, and what its own call made of it.

    Attributes:
        route: Where its call goes.
        cascade: What became of the cheaper tier's answer: `kept`, or why it was not; None if it was not asked.
        tried_usd: What that answer cost, if it was not kept.
        paid_usd: What all answers cost that came in one piece: given, not kept, cut, or not the JSON asked for.
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
    paid_usd: float = 0.0
    schema: Fate | None = None
    begun: tuple[str, str, CacheLookup, float | None, int, str, str | None] | None = None
    outcome: Outcome | None = None
    last: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    asking: bool = False
    left: bool = False
    error: str | None = None

    def pay(self, usd: float) -> None:
        """Note what an answer cost."""
        self.paid_usd += usd

    def lap(self, stage: str, now: float) -> None:
        """End a stage."""
        self.stages[stage] = now - (self.last or self.started)
        self.last = now

    @property
    def deadline(self) -> float:
        """Until when the client waits for the answer, or for a stream's first part."""
        return self.started + self.request.timeout_s

    @property
    def tried_in_vain(self) -> bool:
        """Whether a cheaper tier was asked whose answer was not kept."""
        return self.cascade not in (None, "kept")


class Accounts:
    """Makes the Outcome of each request, and tells `on_end` of it."""

    def __init__(self, config: GatewayConfig, clock: Callable[[], float], on_end: Callable[[Outcome], None]) -> None:
        self.prices = config.prices()
        self._baseline = config.baseline_price()
        self._clock = clock
        self._on_end = on_end

    def hit(self, call: Call, lookup: CacheLookup, completion: Completion, finished: bool = True) -> Outcome:
        """Account for an answer of the cache, or of another request's call."""
        if call.lookup is not lookup:
            call.lap("wait", self._clock())
        saved_usd = cost_usd(completion.usage, self._baseline)
        return self._ended(
            call, completion, tier="cache", cache=lookup, saved_usd=saved_usd, route="cache", finished=finished
        )

    def cut_off(self, call: Call, lookup: CacheLookup, came: Iterable[StreamPart]) -> Outcome:
        """Account for as much of another request's stream as came."""
        assembler, target = ChunkAssembler(), ""
        for part in came:
            target = target or part.target
            for chunk in part.chunks:
                assembler.add(chunk)
        return self.hit(call, lookup, Completion(assembler.completion(), target), finished=False)

    def given_up(self, call: Call) -> Outcome:
        """Account for a request that its client left before there was an answer."""
        call.lap("wait", self._clock())
        spent_usd = call.paid_usd
        return self._ended(
            call,
            Completion({}, ""),
            tier=NOBODY,
            cost_usd=spent_usd,
            saved_usd=-spent_usd,
            route=call.route.reason if call.route else "",
            score=call.route.score if call.route else None,
            finished=False,
            cascade_saved_usd=-call.tried_usd,
        )

    def answered(
        self, call: Call, route: Route, completion: Completion, tier: TierConfig, attempts: int, finished: bool
    ) -> Outcome:
        """Account for the answer of a tier, and for what was asked in vain before it."""
        call.lap("stream" if call.begun else "model", self._clock())
        usage = completion.usage
        answer_usd = cost_usd(usage, self.prices[completion.target])
        prompt = replace(usage, completion_tokens=0)
        beside_usd = sum(cost_usd(prompt, self.prices[model]) for model in completion.also)
        streamed_usd = answer_usd if call.begun else 0.0  # one in one piece is paid already
        total_usd = call.paid_usd + streamed_usd + beside_usd
        dearer_usd = cost_usd(usage, self.prices[next(iter(route.tiers[0].models()))])
        return self._ended(
            call,
            completion,
            tier=tier.name,
            score=route.score,
            attempts=attempts,
            cost_usd=total_usd,
            saved_usd=cost_usd(usage, self._baseline) - total_usd,
            route=route.reason,
            finished=finished,
            cascade_saved_usd=dearer_usd - answer_usd if call.cascade == "kept" else -call.tried_usd,
        )

    def _ended(self, call: Call, completion: Completion, **found: Any) -> Outcome:
        request = call.request
        nothing = {"cache": call.lookup, "score": None, "attempts": 0, "cost_usd": 0.0}
        outcome = Outcome(
            completion,
            latency_s=(call.last or self._clock()) - call.started,
            tenant=request.tenant,
            request_id=request.request_id,
            arm=request.arm,
            cascade=call.cascade,
            schema=call.schema,
            endpoint=request.endpoint,
            prompt=request.prompt,
            stages=call.stages,
            error=call.error,
            **{**nothing, **found},
        )
        self._on_end(outcome)
        return outcome
