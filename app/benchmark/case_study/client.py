"""The client of the case: it asks at the traffic's own times, and says of each answer how long it took by the case's
clock.

The clock of the case runs `speed` times as fast as the machine's, so that hours of traffic take minutes: requests
come that much closer together, and the upstreams answer that much sooner. What Tierwise itself takes cannot be sped
up, and is not divided. So a latency is the sum of what the upstreams were scripted to take and of all the rest, as
the machine's clock saw it:

    latency = (seconds at the client - seconds at the upstreams) + scripted seconds of those calls

The upstreams' part is what its calls for the same text overlap with the request, so that a request that waits for an
identical one, or whose first call fails, is reckoned rightly. That a timer of the upstream ends late is in neither
part: it would be multiplied by the speed. Tierwise has `speed` times the load of the case to bear meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from app.benchmark.case_study.traffic import Asked
from app.benchmark.case_study.upstream import Call

_TIMEOUT_S = 120
_SHOWN = ("x-tierwise-cache", "x-tierwise-cache-reason", "x-tierwise-tier", "x-tierwise-route", "x-tierwise-cost-usd")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    Attributes:
        started: By the machine's monotonic clock, as `ended`.
        status: 0 where the connection broke.
        completion: None where there is none.
        headers: Of Tierwise, without their `x-tierwise-`.
    """

    started: float
    ended: float
    status: int
    completion: Mapping[str, Any] | None
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.completion is not None

    @property
    def text(self) -> str:
        """What was answered."""
        return str(self.completion["choices"][0]["message"]["content"]) if self.completion else ""


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long a request took: what the upstreams were scripted to take, by the case's clock; the rest, by the
    machine's."""

    scripted_s: float
    own_s: float

    @property
    def total_s(self) -> float:
        """By the case's clock."""
        return self.scripted_s + self.own_s


def play(url: str, requests: Sequence[Asked], speed: float, model: str) -> list[Answer]:
    """Ask all of them at their times, whatever is still under way."""
    return asyncio.run(_play(url, requests, speed, model))


def seconds_of(requests: Sequence[Asked], answers: Sequence[Answer], calls: Sequence[Call]) -> list[Seconds]:
    """Say how long each took, given the calls that the upstreams had meanwhile."""
    by_text: dict[str, list[Call]] = {}
    for call in calls:
        by_text.setdefault(call.text, []).append(call)
    return [_seconds(answer, by_text.get(asked.text, ())) for asked, answer in zip(requests, answers, strict=True)]


def _seconds(answer: Answer, calls: Sequence[Call]) -> Seconds:
    scripted, at_upstream = 0.0, 0.0
    until = answer.started
    for call in sorted(calls, key=lambda call: call.started):
        shared = min(call.ended, answer.ended) - max(call.started, until)
        if shared > 0:  # two calls at a time count once
            until = max(until, call.ended)
            at_upstream += shared
            scripted += call.scripted_s * shared / (call.ended - call.started)
    return Seconds(scripted, answer.ended - answer.started - at_upstream)


async def _play(url: str, requests: Sequence[Asked], speed: float, model: str) -> list[Answer]:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        begun = time.monotonic()

        async def ask(asked: Asked) -> Answer:
            await asyncio.sleep(begun + asked.at_s / speed - time.monotonic())
            return await _ask(session, url, asked.body(model))

        return list(await asyncio.gather(*(ask(asked) for asked in requests)))


async def _ask(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> Answer:
    started = time.monotonic()
    data, headers = msgspec.json.encode(body), {"content-type": "application/json"}
    status, completion, shown = 0, None, {}
    try:
        async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as answer:
            said = await answer.read()
            status = answer.status
            completion = msgspec.json.decode(said) if status == 200 else None
            shown = {
                name.removeprefix("x-tierwise-"): answer.headers[name] for name in _SHOWN if name in answer.headers
            }
    except (aiohttp.ClientError, TimeoutError):
        pass
    return Answer(started, time.monotonic(), status, completion, shown)
