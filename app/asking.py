"""Asker: tiers asked in turn, until one gives the answer that was asked for."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from app.cascade import objection
from app.errors import UnavailableError, UnfitError, UpstreamError
from app.pricing import Tariff, cost_usd
from app.protocols import ChatProvider
from app.routing import TierConfig, Tiers
from app.schema import ChatRequest, Completion, StreamPart
from app.shaping.schema import Fate, fault, repair, structured, unfenced

log = logging.getLogger(__name__)
T = TypeVar("T")
Pay = Callable[[float], None]


def _nobody(usd: float) -> None:
    """Where the caller reads the cost off the answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer in one piece.

    Attributes:
        attempts: Tiers asked.
        cost_usd: Of the answer alone.
        wasted_usd: Of the answers that it took the place of.
        schema: What became of it, where JSON was asked for.
    """

    completion: Completion
    tier: TierConfig
    attempts: int
    cost_usd: float
    wasted_usd: float = 0.0
    schema: Fate | None = None


class Asker:
    """Asks the providers of tiers.

    Args:
        providers: By tier name.
        prices: By model.
        local: The tiers whose model says how sure it is of each token.
    """

    def __init__(
        self, providers: Mapping[str, ChatProvider], prices: Mapping[str, Tariff], local: Collection[str]
    ) -> None:
        self._providers = providers
        self._prices = prices
        self._local = local

    async def whole(self, request: ChatRequest, tiers: Tiers, *, pinned: bool = False, pay: Pay = _nobody) -> Asked:
        """Ask for an answer in one piece. One that is not the JSON asked for is repaired, or the next tier asked.

        Args:
            pinned: The client named the model: it is not to be any of the tier's.
            pay: Told what each answer costs, in dollars, as it comes: it may be that none is given.

        Raises:
            InvalidRequestError: The request is refused, or too long for every tier.
            UnavailableError: No tier answered.
        """
        body = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
        wasted: list[Asked] = []

        async def ask(tier: TierConfig) -> Asked:
            asked = await self._shaped(tier, _addressed(body, tier, pinned), request.raised_max_tokens, pay)
            if asked.schema == "invalid" and tier is not tiers[-1]:
                wasted.append(asked)
                raise UpstreamError("the answer does not follow the schema", tier.name)
            return asked

        try:
            asked, _, attempts = await _first_answer(tiers, ask)
        except UnavailableError:
            if not wasted:
                raise
            *wasted, asked = wasted  # an answer of the wrong form is better than none
            attempts = len(tiers)
        if wasted and asked.schema != "invalid":
            asked = replace(asked, schema="escalated")
        lost = sum(other.cost_usd + other.wasted_usd for other in wasted)
        return replace(asked, attempts=attempts, wasted_usd=asked.wasted_usd + lost)

    async def opened(
        self, request: ChatRequest, tiers: Tiers, *, pinned: bool = False
    ) -> tuple[tuple[StreamPart, AsyncGenerator[StreamPart, None]], TierConfig, int]:
        """Ask for a streamed answer: its first part and the rest, the tier, the tiers asked. Raises as `whole` does."""
        return await _first_answer(
            tiers, lambda tier: _opened(self._providers[tier.name].stream(_addressed(request.body, tier, pinned)))
        )

    async def cheaper(
        self, request: ChatRequest, tier: TierConfig, min_token_probability: float, pay: Pay = _nobody
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
            asked = await self.whole(replace(request, body={**request.body, **extra}), (tier,), pay=pay)
        except (UnavailableError, UnfitError):
            return None, "failed"
        body = asked.completion.body
        found = objection(request.body, body, min_token_probability)
        for choice in () if told else body.get("choices") or ():
            choice.pop("logprobs", None)
        return asked, found or "kept"

    async def complete(self, tier: TierConfig, body: Mapping[str, Any], pay: Pay = _nobody) -> Asked:
        """Ask one tier, as it is. Raises as a ChatProvider does."""
        completion = await self._providers[tier.name].complete(body)
        cost = cost_usd(completion.usage, self._prices[completion.target])
        pay(cost)
        return Asked(completion, tier, 1, cost)

    async def _shaped(
        self, tier: TierConfig, body: Mapping[str, Any], raised_max_tokens: int | None, pay: Pay
    ) -> Asked:
        """Ask one tier; again where our own limit cut the answer, and where it is not the JSON asked for."""
        asked = await self.complete(tier, body, pay)
        own_limit = raised_max_tokens is not None
        if own_limit and _cut(asked.completion):
            body = {**body, "max_tokens": raised_max_tokens}
            asked = await self._again(asked, body, pay)
        if not structured(body):
            return asked
        fenced = unfenced(asked.completion.body)
        wrong = fault(body, asked.completion.body, own_limit=own_limit)
        if wrong is None:
            return replace(asked, schema="repaired" if fenced else "valid")
        asked = await self._again(asked, repair(body, asked.completion.body, wrong), pay)
        unfenced(asked.completion.body)
        wrong = fault(body, asked.completion.body, own_limit=own_limit)
        return replace(asked, schema="repaired" if wrong is None else "invalid")

    async def _again(self, asked: Asked, body: Mapping[str, Any], pay: Pay) -> Asked:
        """Ask for a better answer; where none comes, or the request is longer than the model takes, keep the first."""
        try:
            better = await self.complete(asked.tier, body, pay)
        except UpstreamError as error:
            log.warning("tier %s did not answer again: %s", asked.tier.name, error.message)
            return asked
        except UnfitError:
            return asked
        return replace(better, wasted_usd=asked.cost_usd + asked.wasted_usd)


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


def _cut(completion: Completion) -> bool:
    return any(choice.get("finish_reason") == "length" for choice in completion.body.get("choices") or ())


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
