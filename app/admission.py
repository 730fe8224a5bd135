"""How much may be under way at once, and who waits: what keeps an overload from becoming an outage."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from app.errors import OverloadedError
from app.section import Section


class OverloadConfig(Section):
    """What one ingress replica takes on. Exact hits, and requests that follow an identical one, are always served.

    Attributes:
        max_ongoing: Requests that ask for a hit by meaning, for a score or a tier's answer, at the same time.
        max_queued: Requests that wait until one of those ends; one more is refused at once.
        max_wait_s: Longest such wait, in seconds; then the request is refused.
        priorities: Of tenants, 0 for those not named. The highest goes first, and a full queue sends off its lowest.
    """

    max_ongoing: PositiveInt = 256
    max_queued: NonNegativeInt = 128
    max_wait_s: PositiveFloat = 5
    priorities: Mapping[str, int] = {}


@dataclass(order=True, slots=True)
class _Waiting:
    """One that waits, before those of lower priority and those that came later."""

    urgency: int
    number: int
    turn: asyncio.Future[None] = field(compare=False)


class Admission:
    """Slots for what is under way; who finds none waits in a bounded queue, by priority."""

    def __init__(self, config: OverloadConfig) -> None:
        self._config = config
        self._ongoing = 0
        self._came = 0
        self._queue: list[_Waiting] = []

    @asynccontextmanager
    async def slot(self, tenant: str) -> AsyncIterator[None]:
        """Hold a slot inside the block.

        Raises:
            OverloadedError: The queue is full of what is as urgent, or the wait was too long.
        """
        if self._ongoing < self._config.max_ongoing:
            self._ongoing += 1
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, tenant: str) -> None:
        self._came += 1
        mine = _Waiting(-self._config.priorities.get(tenant, 0), self._came, asyncio.Future())
        bisect.insort(self._queue, mine)
        if len(self._queue) > self._config.max_queued:
            last = self._queue.pop()
            if last is mine:
                raise OverloadedError("Too many requests are waiting already. Try again later.")
            if not last.turn.done():
                last.turn.set_exception(OverloadedError("Too many more urgent requests are waiting. Try again later."))
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                await mine.turn
        except TimeoutError as error:
            if not self._leave(mine):  # else the turn came together with the end of the wait
                raise OverloadedError(
                    f"No slot became free in {self._config.max_wait_s:g} s. Try again later."
                ) from error
        except asyncio.CancelledError:
            if self._leave(mine):  # the turn came together with the client's end
                self._release()
            raise

    def _leave(self, mine: _Waiting) -> bool:
        """Wait no longer; say whether a slot was given all the same."""
        if mine in self._queue:
            self._queue.remove(mine)
        return mine.turn.done() and not mine.turn.cancelled() and mine.turn.exception() is None

    def _release(self) -> None:
        """Pass the slot on to the first that still waits."""
        while self._queue:
            turn = self._queue.pop(0).turn
            if not turn.done():
                turn.set_result(None)
                return
        self._ongoing -= 1
