"""Coalescing: identical requests in flight, in every replica of the ingress, make one upstream call.

A `Flight` is one such call and its answer so far. The requests of a replica share its flight; in every other replica a
flight of the same key follows the first one's log in Redis, for all who wait there:

    the leader's replica     ask ─▶ Flight ─▶ requests
                                      └─▶ log ─▶ Flight ─▶ requests     another replica

Coalescing comes after an exact miss. Within a replica it comes before the semantic lookup: followers pay no hop, and
share the leader's hit if it has one. Between replicas it comes after: what the cache answers needs no word to others.
The call is nobody's own: it runs in a task that goes on while anybody waits, here or elsewhere. A flight
that fails is forgotten at once, so that those who waited start the next. The leader's answer is in the cache before it
gives up the lead, so whoever comes finds the flight or the stored answer.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

import msgspec

from app.background import Background
from app.errors import CacheUnavailableError, GatewayError, InvalidRequestError, UnavailableError, UpstreamError
from app.protocols import FlightRelay
from app.schema import CacheKey, Outcome, StreamPart

Event = StreamPart | Outcome  # of an answer: its parts if it is streamed, then all that is known of it
Lead = Callable[[], Awaitable[bool]]
Ask = Callable[[Lead], AsyncGenerator[Event, None]]


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between a leader's signs of life, between its parts that it writes down, while nobody follows and while
    somebody does, between a follower's looks, and of silence that break a stream.
    """

    heartbeat_s: float = 0.5
    alone_s: float = 0.1
    poll_s: float = 0.025
    silence_s: float = 3.0


_PACE = Pace()


class Coalescer:
    """Gives identical requests that are in flight the answer of one call.

    Args:
        relay: Shares flights with the other replicas; None coalesces within this one.
    """

    def __init__(self, relay: FlightRelay | None = None, pace: Pace = _PACE) -> None:
        self._relay = relay
        self._pace = pace
        self._flights: dict[CacheKey, Flight] = {}
        self._calls = Background()

    async def events(self, key: CacheKey, ask: Ask, streamed: bool, patience_s: float) -> AsyncGenerator[Event, None]:
        """Yield the answer of the call for `key` that is in flight; if there is none, `ask` makes it.

        Whoever has had no part of an answer outlives its leader's failure: it follows the next leader or is the next.
        After two of them it asks for itself alone.

        Args:
            ask: Makes the call. Before it asks upstream it awaits what it is given, which ends it if another replica
                makes that call; True says that an answer was stored since the request's exact lookup: look again.
            streamed: Whether to yield the parts as they come, or the outcome alone.
            patience_s: Longest wait for the first event.

        Raises:
            InvalidRequestError: The request is refused, whoever asked.
            UnavailableError: There was nothing in time.
            GatewayError: The request's own call failed, or the stream broke off after its first part.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        for shared in (True, True, False):
            flight = (self._flights.get(key) if shared else None) or self._launch(key, ask, shared)
            flight.waiting += 1
            position = 0
            try:
                while True:
                    async with asyncio.timeout_at(None if position else deadline):
                        event = await flight.event(position, streamed)
                    yield event
                    if isinstance(event, Outcome):
                        return
                    position += 1
            except TimeoutError:
                message = f"No answer in {patience_s:g} s. Try again in {UnavailableError.retry_after_s} s."
                raise UnavailableError(message) from None
            except FlightFailedError as failure:
                if position or flight.ask is ask or isinstance(failure.error, InvalidRequestError):
                    raise failure.error from None
            finally:
                flight.waiting -= 1
                self._left(key, flight)

    async def drain(self) -> None:
        """Wait for the flights under way, and for what they store and tell the others."""
        await self._calls.drain()

    def _launch(self, key: CacheKey, ask: Ask, shared: bool) -> Flight:
        flight = Flight()
        if shared:
            self._flights[key] = flight
        flight.task = self._calls.start(self._fly(key, flight, ask, self._relay if shared else None))
        return flight

    async def _fly(self, key: CacheKey, flight: Flight, ask: Ask, relay: FlightRelay | None) -> None:
        """Make the call, or follow the replica that does; without Redis, make it for this replica."""
        token = uuid.uuid4().hex

        async def lead() -> bool:
            if relay is None:
                return False
            try:
                leader, stored = await relay.claim(key, token)
            except CacheUnavailableError:  # the lookup before has said so in the log
                return False
            if leader is not None:
                raise _LedElsewhereError(leader, relay)
            flight.told = self._calls.start(self._tell(key, token, flight, relay))
            return stored

        try:
            try:
                flight.ask = ask
                async with aclosing(ask(lead)) as events:
                    async for event in events:
                        flight.add(event)
                        await asyncio.sleep(0)  # a burst of parts goes out as it comes
            except _LedElsewhereError as led:
                flight.ask = None
                await self._follow(key, led.leader, flight, led.relay)
        except asyncio.CancelledError:
            flight.fail(UpstreamError("nobody waited for the answer", "coalescing"))
        except Exception as error:
            flight.fail(error)
        finally:
            self._forget(key, flight)

    async def _tell(self, key: CacheKey, token: str, flight: Flight, relay: FlightRelay) -> None:
        """Write the flight's log and give signs of life; end a call that nobody waits for."""
        clock = asyncio.get_running_loop().time
        seen = told = size = 0
        over, heard = False, clock()
        while not over:
            if len(flight.parts) == seen and not flight.over:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.heartbeat_s):
                        await flight.changed.wait()
            if flight.over:
                await asyncio.wait([flight.task])  # what it stores is stored before the lead is given up
            over, seen, parts = flight.over, len(flight.parts), flight.parts[told:]
            lines = b"".join(map(_line_of_part, parts)) + (_last_line(flight) if over else b"")
            try:
                followed = await relay.publish(key, token, size, lines, over)
                told, size, heard = told + len(parts), size + len(lines), clock()
            except CacheUnavailableError:  # the lines are written with the next, while anybody may still listen
                followed, over = False, over and clock() - heard > self._pace.silence_s
                await asyncio.sleep(self._pace.heartbeat_s)
            if not followed:
                self._abandon(key, flight)
            await flight.end(within_s=self._pace.poll_s if followed else self._pace.alone_s)

    async def _follow(self, key: CacheKey, leader: str, flight: Flight, relay: FlightRelay) -> None:
        """Read the log of another replica's flight to its end.

        Raises:
            InvalidRequestError: The request was refused there.
            UpstreamError: The call failed, its replica was lost, or Redis was.
        """
        clock = asyncio.get_running_loop().time
        size, heard = 0, clock()
        while flight.outcome is None:
            try:
                leads, lines = await relay.read(key, leader, size)
                heard = clock()
            except CacheUnavailableError as error:
                if not flight.parts or clock() - heard > self._pace.silence_s:
                    raise UpstreamError(f"the log of the call was lost: {error.message}", "coalescing") from error
                leads, lines = True, b""
            size += len(lines)
            for line in lines.splitlines():
                flight.add(_event(line))
            if not leads and flight.outcome is None:
                raise UpstreamError("the replica that made the call was lost", "coalescing")
            if flight.abandoned:  # a Redis client that is cancelled as its answer comes may swallow that
                raise asyncio.CancelledError
            await asyncio.sleep(self._pace.poll_s)

    def _left(self, key: CacheKey, flight: Flight) -> None:
        """Note that a request waits no more."""
        if flight.told is None:
            self._abandon(key, flight)
        else:
            flight.notify()  # `_tell` sees whether another replica waits

    def _abandon(self, key: CacheKey, flight: Flight) -> None:
        """End a call under way that no request of this replica waits for."""
        if not flight.waiting and not flight.over:
            self._forget(key, flight)
            flight.abandoned = True
            flight.task.cancel()

    def _forget(self, key: CacheKey, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class FlightFailedError(Exception):
    """A flight ended without an answer, by `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _LedElsewhereError(Exception):
    """Another replica makes the call."""

    def __init__(self, leader: str, relay: FlightRelay) -> None:
        super().__init__(leader, relay)
        self.leader = leader
        self.relay = relay


class Flight:
    """One call, and its answer as far as it has come.

    Attributes:
        parts: Of a streamed answer, all that came.
        outcome: Its end, or
        error: the failure in its place.
        ask: What makes the call, if this replica does.
        waiting: Requests of this replica that wait for it.
        abandoned: Whether none does any more, so that it is to end.
        changed: Set at the next change, and then replaced.
        task: Makes the call, or follows it.
        told: Tells other replicas, if they can be told.
    """

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.parts: list[StreamPart] = []
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.ask: Ask | None = None
        self.waiting = 0
        self.abandoned = False
        self.changed = asyncio.Event()
        self.told: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether all has come."""
        return self.outcome is not None or self.error is not None

    async def event(self, position: int, streamed: bool) -> Event:
        """Wait for the part at `position`, or for the outcome where no part is there or none is wanted.

        Raises:
            FlightFailedError: There will be none.
        """
        while True:
            if streamed and position < len(self.parts):
                return self.parts[position]
            if self.outcome is not None:
                return self.outcome
            if self.error is not None:
                raise FlightFailedError(self.error)
            await self.changed.wait()

    async def end(self, within_s: float) -> None:
        """Wait for its end, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.over:
                    await self.changed.wait()

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Outcome):
            self.outcome = event
        else:
            self.parts.append(event)
        self.notify()

    def fail(self, error: Exception) -> None:
        """End without an answer."""
        self.error = error
        self.notify()

    def notify(self) -> None:
        """Wake all who wait."""
        self.changed.set()
        self.changed = asyncio.Event()


class _Line(msgspec.Struct, omit_defaults=True):
    """A line of a flight's log: a part or, at its end, the outcome, the words of a refusal, or those of a failure."""

    part: StreamPart | None = None
    outcome: Outcome | None = None
    refused: tuple[str, str | None, str | None] | None = None
    failed: str = ""


_lines = msgspec.json.Decoder(_Line)


def _line_of_part(part: StreamPart) -> bytes:
    return msgspec.json.encode(_Line(part)) + b"\n"


def _last_line(flight: Flight) -> bytes:
    error = flight.error
    if flight.outcome is not None:
        cache = replace(flight.outcome.cache, entry=None, embedding=None, near=None)  # followers need none
        line = _Line(outcome=replace(flight.outcome, cache=cache, prompt=""))
    elif isinstance(error, InvalidRequestError):
        line = _Line(refused=(error.message, error.param, error.code))
    else:
        line = _Line(failed=error.message if isinstance(error, GatewayError) else type(error).__name__)
    return msgspec.json.encode(line) + b"\n"


def _event(raw: bytes) -> Event:
    try:
        line = _lines.decode(raw)
    except msgspec.DecodeError as error:  # of another version, or of a Redis that lost some
        raise UpstreamError("the log of the call is not readable", "coalescing") from error
    if line.refused is not None:
        raise InvalidRequestError(*line.refused)
    event = line.part or line.outcome
    if event is None:
        raise UpstreamError(line.failed, "coalescing")
    return event
