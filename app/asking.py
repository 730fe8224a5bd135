"""Asker: tiers asked in turn, until one gives the answer that was asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeVar

from app.cascade import objection
from app.errors import InvalidRequestError, UnavailableError, UnfitError, UpstreamError
from app.pricing import Tariff, cost_usd
from app.protocols import TierProvider
from app.routing import TierConfig, Tiers, needs_of
from app.schema import ChatRequest, Completion, StreamPart
from app.shaping.schema import Fate, checked, fault, repair, structured, unfenced

log = logging.getLogger(__name__)
T = TypeVar("T")
_TEMPLATE_TOKENS = 16  # that a chat template adds to a message, at most
Pay = Callable[[float], None]


def _nobody(usd: float) -> None:
    """Where nobody asks what it costs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer in one piece.

    Attributes:
        attempts: Tiers asked.
        schema: What became of it, where JSON was asked for and given.
    """

    completion: Completion
    tier: TierConfig
    attempts: int
    schema: Fate | None = None


class Asker:
    """Asks the providers of tiers.

    Args:
        providers: By tier name.
        prices: By model.
        local: The tiers whose model says how sure it is of each token.
        clock: By which deadlines are given.
    """

    def __init__(
        self,
        providers: Mapping[str, TierProvider],
        prices: Mapping[str, Tariff],
        local: Collection[str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._providers = providers
        self._prices = prices
        self._local = local
        self._clock = clock

    async def whole(
        self,
        request: ChatRequest,
        tiers: Tiers,
        *,
        pinned: bool = False,
        deadline: float = inf,
        pay: Pay = _nobody,
    ) -> Asked:
        """Ask for an answer in one piece. One that is not the JSON asked for is repaired, or the next tier asked.

        Args:
            pinned: The client named the model: it is not to be any of the tier's.
            deadline: Until when the client waits. No tier pauses beyond it; who calls this ends what takes longer.
            pay: Told what each answer costs, in dollars, as it comes: others may take its place, or none be given.

        Raises:
            InvalidRequestError: The request is refused, or too long for every tier.
            UnavailableError: No tier answered.
        """
        body = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
        wasted: list[Asked] = []

        async def ask(tier: TierConfig) -> Asked:
            asked = await self._shaped(tier, _addressed(body, tier, pinned), request.raised_max_tokens, deadline, pay)
            if asked.schema == "invalid" and tier is not tiers[-1]:
                wasted.append(asked)
                raise UpstreamError("the answer does not follow the schema", tier.name)
            return asked

        try:
            asked, _, attempts = await _first_answer(tiers, ask)
        except UnavailableError:
            if not wasted:
                raise
            asked, attempts = wasted[-1], len(tiers)  # an answer of the wrong form is better than none
        if wasted and asked.schema in ("valid", "repaired"):
            asked = replace(asked, schema="escalated")
        return replace(asked, attempts=attempts)

    async def opened(
        self, request: ChatRequest, tiers: Tiers, *, pinned: bool = False, deadline: float = inf
    ) -> tuple[tuple[StreamPart, AsyncGenerator[StreamPart, None]], TierConfig, int]:
        """Ask for a streamed answer: its first part and the rest, the tier, the tiers asked. Raises as `whole` does.

        A limit that is our own is raised from the start.
        """

        async def ask(tier: TierConfig) -> tuple[StreamPart, AsyncGenerator[StreamPart, None]]:
            body = _addressed(request.body, tier, pinned)
            if request.raised_max_tokens is not None:
                body = _raised(body, tier, request.raised_max_tokens)
            return await _opened(self._providers[tier.name].stream(body, self._left_s(deadline)))

        return await _first_answer(tiers, ask)

    async def cheaper(
        self,
        request: ChatRequest,
        tier: TierConfig,
        min_token_probability: float,
        deadline: float = inf,
        pay: Pay = _nobody,
    ) -> tuple[Asked | None, str]:
        """Ask a cheaper tier than the score calls for; its answer is there to be kept only if it passes the checks.

        Args:
            pay: As `whole` has it.

        Returns:
            The answer if the tier gave one, and `kept`, or why it is not kept.
        """
        told = bool(request.body.get("logprobs"))
        extra = {"logprobs": True} if tier.name in self._local else {}
        try:
            given = replace(request, body={**request.body, **extra})
            asked = await self.whole(given, (tier,), deadline=deadline, pay=pay)
        except (UnavailableError, UnfitError):
            return None, "failed"
        body = asked.completion.body
        found = objection(request.body, body, min_token_probability)
        for choice in () if told else body.get("choices") or ():
            choice.pop("logprobs", None)
        return asked, found or "kept"

    async def complete(
        self, tier: TierConfig, body: Mapping[str, Any], deadline: float = inf, pay: Pay = _nobody
    ) -> Asked:
        """Ask one tier, as it is. Raises as a TierProvider does."""
        completion = await self._providers[tier.name].complete(body, self._left_s(deadline))
        pay(cost_usd(completion.usage, self._prices[completion.target]))
        return Asked(completion, tier, 1)

    def _left_s(self, deadline: float) -> float:
        return inf if deadline == inf else deadline - self._clock()

    async def _shaped(
        self, tier: TierConfig, body: Mapping[str, Any], raised_max_tokens: int | None, deadline: float, pay: Pay
    ) -> Asked:
        """Ask one tier; again where our own limit cut the answer, and where it is not the JSON asked for."""
        asked = await self.complete(tier, body, deadline, pay)
        own_limit = raised_max_tokens is not None
        if raised_max_tokens is not None and _cut(asked.completion):
            body = _raised(body, tier, raised_max_tokens)
            asked = await self._again(asked, body, deadline, pay)
        if not structured(body):
            return asked
        fenced = unfenced(asked.completion.body)
        wrong = fault(body, asked.completion.body, own_limit=own_limit)
        if wrong is None:
            return _fated(asked, "repaired" if fenced else "valid")
        asked = await self._again(asked, repair(body, asked.completion.body, wrong), deadline, pay)
        unfenced(asked.completion.body)
        wrong = fault(body, asked.completion.body, own_limit=own_limit)
        return _fated(asked, "repaired") if wrong is None else replace(asked, schema="invalid")

    async def _again(self, asked: Asked, body: Mapping[str, Any], deadline: float, pay: Pay) -> Asked:
        """Ask for a better answer; where none comes, or the request is longer than the model takes, keep the first."""
        try:
            return await self.complete(asked.tier, body, deadline, pay)
        except UpstreamError as error:
            log.warning("tier %s did not answer again: %s", asked.tier.name, error.message)
        except InvalidRequestError:  # our own request, not the client's; what is said of it may quote the prompt
            log.warning("tier %s refused to be asked again", asked.tier.name)
        return asked


async def _first_answer(tiers: Tiers, ask: Callable[[TierConfig], Coroutine[Any, Any, T]]) -> tuple[T, TierConfig, int]:
    """Ask the tiers in turn; a request that one cannot serve, as a prompt too long for it, goes to the next as well."""
    unfit: UnfitError | None = None
    for attempt, tier in enumerate(tiers, 1):
        try:
            return await ask(tier), tier, attempt
        except UpstreamError as error:
            log.warning("tier %s failed: %s", tier.name, error.message)
        except UnfitError as error:
            unfit = error
    if unfit is not None:
        raise unfit
    names = ", ".join(tier.name for tier in tiers)
    raise UnavailableError(f"No model answered (tried: {names}). Try again in {UnavailableError.retry_after_s} s.")


def _fated(asked: Asked, fate: Fate) -> Asked:
    return replace(asked, schema=fate) if checked(asked.completion.body) else asked


def _cut(completion: Completion) -> bool:
    return any(choice.get("finish_reason") == "length" for choice in completion.body.get("choices") or ())


def _raised(body: Mapping[str, Any], tier: TierConfig, raised: int) -> Mapping[str, Any]:
    """Raise the limit of the answer as far as the tier's context has room beside the prompt."""
    limit = body["max_tokens"]
    most = {**body, "max_tokens": raised}
    over = needs_of(most, tier).tokens + _TEMPLATE_TOKENS * len(body["messages"]) - tier.window()
    return most if over <= 0 else {**body, "max_tokens": max(limit, int(raised - over))}


def _addressed(body: Mapping[str, Any], tier: TierConfig, pinned: bool) -> Mapping[str, Any]:
    """Name the tier as the model of a routed request: any of its targets may answer."""
    return body if pinned else {**body, "model": tier.name}


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
