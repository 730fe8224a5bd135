"""Targets that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from app.errors import GatewayError, UpstreamError
from app.providers.base import Quota, TargetConfig
from app.schema import Completion, StreamPart
from app.tier import PolicyConfig, Target
from app.tier.limits import RateLimit
from tests.fakes import answer


class Clock:
    """A clock that a test moves; sleeping moves it too."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class ScriptedProvider:
    """A Provider that fails by the errors it is given, one a call, then answers; None among them is an answer.

    Attributes:
        calls: How often it was asked.
        closed: How many calls or streams were ended.
        hang: Calls wait for it, if it is set to an event.
        cut: Streams break off after their first part.
    """

    def __init__(self, *errors: GatewayError | None, model: str = "small") -> None:
        self.errors = list(errors)
        self.model = model
        self.quota = Quota()
        self.calls = 0
        self.closed = 0
        self.hang: asyncio.Event | None = None
        self.cut = False

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        await self._begin()
        return answer(model=self.model, text=f"{self.model} {self.calls}")

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        try:
            await self._begin()
            for word in ("one", "two"):
                yield StreamPart([{"choices": [{"delta": {"content": word}}]}], self.model)
                if self.cut:
                    raise UpstreamError("cut", "openai")
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _begin(self) -> None:
        self.calls += 1
        error = self.errors.pop(0) if self.errors else None
        if self.hang is not None:
            try:
                await self.hang.wait()
            except asyncio.CancelledError:
                self.closed += 1
                raise
        if error is not None:
            raise error


def target(
    provider: ScriptedProvider,
    policy: PolicyConfig | None = None,
    clock: Callable[[], float] | None = None,
    **config: Any,
) -> Target:
    """Make a target over a provider, by default named as its model."""
    clock = clock or Clock()
    provider.quota = Quota(clock)
    settings = TargetConfig(model=provider.model, **config)
    return Target(settings, provider, policy or PolicyConfig(), RateLimit(settings, "mid"), clock)
