"""TargetPolicy: which target of a tier is asked, which is next, and when it is asked again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay

from app.errors import InvalidRequestError, RestingError, UnfitError, UpstreamError, UpstreamTimeoutError
from app.providers.base import Provider, TargetConfig
from app.schema import Completion, StreamPart
from app.tier.breaker import Breaker
from app.tier.config import PolicyConfig
from app.tier.limits import RateLimit

log = logging.getLogger(__name__)
T = TypeVar("T")
Opened = tuple[StreamPart, AsyncGenerator[StreamPart, None]]
_ENOUGH = 20  # answers that a 95th percentile can be read from
_RESERVE = 10.0  # second calls that are free, so that a quiet gateway may retry


class Target:
    """One model behind an API, and how it does.

    Attributes:
        breaker: Whether it is left alone.
    """

    def __init__(
        self,
        config: TargetConfig,
        provider: Provider,
        policy: PolicyConfig,
        limit: RateLimit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.provider = provider
        self.breaker = Breaker(policy.breaker, clock)
        self._limit = limit
        self._clock = clock
        self._times: dict[str, deque[float]] = {}

    @property
    def resting_s(self) -> float:
        """How long its API has nothing left of its rate limits."""
        return max(0.0, self.provider.quota.exhausted_until - self._clock())

    @property
    def away_s(self) -> float:
        """How long it is not asked, for its rate limits or its breaker."""
        return max(self.resting_s, self.breaker.open_until - self._clock())

    async def allows(self) -> bool:
        """Whether it may be asked now, which then counts."""
        if self.resting_s or not self.breaker.allows():
            return False
        room = False
        try:
            room = await self._limit.take()
        finally:
            if not room:  # or the client went away while Redis was asked
                self.breaker.released()
        return room

    async def timed(self, kind: str, call: Awaitable[T]) -> T:
        """Await its answer or the first part, and note a failure and the time; a success is for who has it all."""
        started = self._clock()
        try:
            answer = await call
        except UpstreamError as error:
            if error.retry_after_s is not None:
                self.provider.quota.wait(error.retry_after_s)
                self.breaker.released()
            else:
                self.breaker.failed()
            raise
        except BaseException:
            self.breaker.released()
            raise
        self._times.setdefault(kind, deque(maxlen=200)).append(self._clock() - started)
        return answer

    async def used(self, tokens: int) -> None:
        """Count the tokens of its answer."""
        await self._limit.used(tokens)

    async def limits_used(self) -> float:
        """Return the share of its limits that is used, in [0, 1]; all of it while it must not be asked."""
        resting = self.resting_s or self.breaker.state == "open"
        return 1.0 if resting else await self._limit.share_used()

    def slow_s(self, kind: str) -> float | None:
        """Return the time within which 95 % of its last answers came; None as long as there are few."""
        times = self._times.get(kind, ())
        return float(np.percentile(times, 95)) if len(times) >= _ENOUGH else None


class TargetPolicy:
    """Asks the targets of one tier.

    Args:
        on_call: Told of each call: the target's label, and `ok` or the kind of its failure.
        draw: Random numbers in [0, 1).
        keyless: Models that cannot be asked, since their key is not set.
    """

    def __init__(
        self,
        tier: str,
        targets: Sequence[Target],
        config: PolicyConfig,
        on_call: Callable[[str, str], None] = lambda label, result: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        keyless: Collection[str] = (),
    ) -> None:
        self._tier = tier
        self._targets = targets
        self._config = config
        self._on_call = on_call
        self._sleep = sleep
        self._draw = draw
        self._keyless = keyless
        self._spare = _RESERVE
        timeouts = sum(target.config.timeout_s for target in targets)
        self._total_s = config.total_s or timeouts

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        """Answer a request in one piece.

        Args:
            within_s: How long the client waits still: no target is paused for that would be asked too late.

        Raises:
            InvalidRequestError: A target refused the request itself, or no target can answer such a one.
            UpstreamError: None answered in time.
        """
        completion: Completion
        completion, target, also = await self._answered(
            body, within_s, "whole", lambda t: self._whole(t, body), _nothing
        )
        target.breaker.succeeded()
        usage = completion.usage
        await target.used(usage.prompt_tokens + usage.completion_tokens)
        return replace(completion, also=also) if also else completion

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece: of the target whose first part comes. Raises as `complete` does."""
        (first, rest), target, also = await self._answered(
            body, within_s, "first", lambda t: self._opened(t, body), _close
        )
        ends = asyncio.get_running_loop().time() + self._config.stream_s
        tokens = 0
        try:
            part: StreamPart | None = replace(first, also=also) if also else first
            while part is not None:
                tokens = _tokens(part) or tokens
                yield part
                part = await self._following(target, rest, ends)
            target.breaker.succeeded()
        except UpstreamError as error:
            target.breaker.failed()
            self._on_call(target.config.label, f"broke off: {_kind(error)}")
            raise
        except BaseException:
            target.breaker.released()
            raise
        finally:
            await rest.aclose()  # a client that went away: let go of the upstream's connection
            await target.used(tokens)

    async def _answered(
        self,
        body: Mapping[str, Any],
        within_s: float,
        kind: str,
        ask: Callable[[Target], Coroutine[Any, Any, Any]],
        undo: Callable[[Any], Awaitable[None]],
    ) -> tuple[Any, Target, tuple[str, ...]]:
        """Go through the targets, again after a pause, until one answers.

        Returns:
            The answer, who gave it, and the models that were asked beside it and cancelled.
        """
        model = body.get("model")
        named = [target for target in self._targets if target.config.model == model]
        if not named and model in self._keyless:
            raise UpstreamError(f"the API key of {model} is not set", self._tier, passes=False)
        retry = self._config.retry
        self._spare = min(self._spare + retry.budget, 10 * _RESERVE)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(retry.rounds) | stop_before_delay(min(self._total_s, within_s)),
            wait=self._pause_s,
            retry=retry_if_exception(self._passes),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self._total_s):
                return await retrying(self._round, named or self._targets, [], kind, ask, undo)
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"{self._tier}: no answer in {self._total_s:g} s", self._tier) from error

    async def _round(
        self,
        targets: Sequence[Target],
        asked: list[Target],
        kind: str,
        ask: Callable[[Target], Coroutine[Any, Any, Any]],
        undo: Callable[[Any], Awaitable[None]],
    ) -> tuple[Any, Target, tuple[str, ...]]:
        """Ask each target once, in order, until one answers.

        Args:
            asked: Those that failed in the rounds before; the round adds its own.
        """
        failed: UpstreamError | None = None
        unfit: UnfitError | None = None
        for target in self._ordered(targets):
            if asked and self._spare < 1:
                break
            if not await target.allows():
                continue
            if asked:
                self._spare -= 1
            try:
                return await self._hedged(target, targets, kind, ask, undo)
            except UpstreamError as error:
                log.warning("tier %s: %s", self._tier, error.message)
                failed = error if failed is None or error.passes else failed
                asked.append(target)
            except UnfitError as error:
                unfit = error
        if (reason := failed or unfit) is not None:
            raise reason
        limited = all(target.resting_s for target in targets)
        away_s = min((target.away_s for target in targets), default=0.0)
        # open breakers: no pause helps, so the next tier is asked at once; a rate limit may be over in a moment
        raise RestingError("all targets rest", self._tier, away_s if away_s > 0 else None, passes=limited)

    async def _hedged(
        self,
        target: Target,
        targets: Collection[Target],
        kind: str,
        ask: Callable[[Target], Coroutine[Any, Any, Any]],
        undo: Callable[[Any], Awaitable[None]],
    ) -> tuple[Any, Target, tuple[str, ...]]:
        """Ask a target; if it takes unusually long, another too, and take what comes first."""
        slow_s = target.slow_s(kind) if self._config.hedge and len(targets) > 1 else None
        if slow_s is None:
            return await self._call(target, kind, ask), target, ()
        calls = {asyncio.create_task(self._call(target, kind, ask)): target}
        try:
            done, _ = await asyncio.wait(calls, timeout=slow_s)
            if not done and (other := await self._another(target, targets)):
                calls[asyncio.create_task(self._call(other, kind, ask))] = other
            error: BaseException | None = None
            pending = set(calls)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    error = call.exception()
                    if error is None:
                        winner = calls.pop(call)
                        return call.result(), winner, tuple(t.config.model for t in calls.values())
            assert error is not None
            raise error
        finally:
            await asyncio.gather(*(_cancelled(call, undo) for call in calls))
            for loser in calls.values():
                loser.breaker.released()

    async def _another(self, target: Target, targets: Collection[Target]) -> Target | None:
        for other in self._ordered([one for one in targets if one is not target]):
            if self._spare >= 1 and await other.allows():
                self._spare -= 1
                return other
        return None

    async def _call(self, target: Target, kind: str, ask: Callable[[Target], Coroutine[Any, Any, T]]) -> T:
        try:
            answer = await target.timed(kind, ask(target))
        except UpstreamError as error:
            self._on_call(target.config.label, _kind(error))
            raise
        except InvalidRequestError:
            self._on_call(target.config.label, "refused")
            raise
        self._on_call(target.config.label, "ok")
        return answer

    async def _whole(self, target: Target, body: Mapping[str, Any]) -> Completion:
        longest_s = target.config.timeout_s
        try:
            async with asyncio.timeout(longest_s):  # the client's own begins anew with each byte
                return await target.provider.complete(body)
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"{target.config.label}: no answer in {longest_s:g} s", self._tier) from error

    async def _opened(self, target: Target, body: Mapping[str, Any]) -> Opened:
        stream = target.provider.stream(body)
        try:
            first = await self._next(target, stream, self._config.first_token_s)
        except BaseException:
            await stream.aclose()
            raise
        if first is None:
            raise UpstreamError("the stream ended before its first chunk", target.config.label)
        return first, stream

    async def _following(
        self, target: Target, stream: AsyncGenerator[StreamPart, None], ends: float
    ) -> StreamPart | None:
        """Return the next part of a stream that must be over by `ends`, by the event loop's clock."""
        try:
            async with asyncio.timeout_at(ends):
                return await self._next(target, stream)
        except TimeoutError as error:
            message = f"{target.config.label}: the stream did not end in {self._config.stream_s:g} s"
            raise UpstreamTimeoutError(message, self._tier, passes=False) from error

    async def _next(
        self, target: Target, stream: AsyncGenerator[StreamPart, None], longest_s: float | None = None
    ) -> StreamPart | None:
        longest_s = longest_s or self._config.between_tokens_s or target.config.timeout_s
        try:
            async with asyncio.timeout(longest_s):
                return await anext(stream, None)
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"{target.config.label}: nothing for {longest_s:g} s", self._tier) from error

    def _ordered(self, targets: Sequence[Target]) -> list[Target]:
        """Order by weight, at random (Efraimidis and Spirakis, 2006), then those without one, as they are listed."""
        weighted = [(self._draw() ** (1 / t.config.weight), t) for t in targets if t.config.weight]
        weighted.sort(key=lambda pair: pair[0], reverse=True)
        return [t for _, t in weighted] + [t for t in targets if not t.config.weight]

    def _passes(self, error: BaseException) -> bool:
        return (
            isinstance(error, UpstreamError)
            and error.passes
            and (error.retry_after_s or 0.0) <= self._config.retry.max_s
            and (isinstance(error, RestingError) or self._spare >= 1)
        )

    def _pause_s(self, state: RetryCallState) -> float:
        """Return the pause after a round: drawn from a range that doubles, and no shorter than the API asks for."""
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s or 0.0 if isinstance(error, UpstreamError) else 0.0
        longest_s: float = min(self._config.retry.base_s * 2 ** (state.attempt_number - 1), self._config.retry.max_s)
        return asked_s + longest_s * self._draw()


async def _nothing(_: object) -> None:
    """A whole answer that nobody wants needs no closing."""


async def _close(opened: Opened) -> None:
    await opened[1].aclose()


async def _cancelled(call: asyncio.Task[Any], undo: Callable[[Any], Awaitable[None]]) -> None:
    """End a call that is not wanted any more, and what it opened."""
    call.cancel()
    await asyncio.wait([call])
    if not call.cancelled() and call.exception() is None:
        await undo(call.result())


def _kind(error: UpstreamError) -> str:
    if isinstance(error, UpstreamTimeoutError):
        return "timeout"
    return "rate limit" if error.retry_after_s is not None else "failed"


def _tokens(part: StreamPart | None) -> int:
    usage = next((chunk["usage"] for chunk in part.chunks if chunk.get("usage")), None) if part else None
    return int(usage.get("total_tokens") or 0) if usage else 0
