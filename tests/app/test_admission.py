"""Admission: slots, the queue for them, and who is sent off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from app.admission import Admission, OverloadConfig
from app.errors import OverloadedError


class Requests:
    """Requests that hold their slot until they are ended.

    Attributes:
        running: The names of those that hold one, in the order of their turns.
    """

    def __init__(self, **config: Any) -> None:
        self.admission = Admission(OverloadConfig(**config))
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def ask(self, name: str, tenant: str = "acme") -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        return asyncio.create_task(self._hold(name, tenant))

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()

    async def _hold(self, name: str, tenant: str) -> None:
        async with self.admission.slot(tenant):
            self.running.append(name)
            await self._ends[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def refused(task: Awaitable[None]) -> str:
    with pytest.raises(OverloadedError) as caught:
        await task
    return caught.value.message


async def test_a_request_waits_for_a_slot_and_those_that_waited_longest_go_first() -> None:
    requests = Requests(max_ongoing=1)
    tasks = [requests.ask(name) for name in "abc"]
    await settled()
    assert requests.running == ["a"]
    await requests.end("a")
    assert requests.running == ["a", "b"]
    await requests.end("b")
    await requests.end("c")
    await asyncio.gather(*tasks)
    assert requests.running == ["a", "b", "c"]


async def test_one_more_than_the_queue_holds_is_refused_at_once() -> None:
    requests = Requests(max_ongoing=1, max_queued=1)
    tasks = [requests.ask(name) for name in "ab"]
    await settled()
    assert "waiting already" in await refused(requests.ask("c"))
    await requests.end("a")
    await requests.end("b")
    await asyncio.gather(*tasks)


async def test_an_urgent_tenant_goes_first_and_takes_the_place_of_the_last_in_a_full_queue() -> None:
    requests = Requests(max_ongoing=1, max_queued=2, priorities={"gold": 1})
    first, early, late = [requests.ask(name) for name in ("first", "early", "late")]
    await settled()
    gold = requests.ask("gold", "gold")
    assert "more urgent" in await refused(late)
    for name in ("first", "gold", "early"):
        await requests.end(name)
    await asyncio.gather(first, gold, early)
    assert requests.running == ["first", "gold", "early"]


async def test_a_wait_that_takes_too_long_ends_and_leaves_the_queue() -> None:
    requests = Requests(max_ongoing=1, max_queued=1, max_wait_s=0.01)
    first = requests.ask("first")
    await settled()
    assert "0.01 s" in await refused(requests.ask("second"))
    assert "0.01 s" in await refused(requests.ask("third"))
    await requests.end("first")
    await first


async def test_a_client_that_goes_while_it_waits_costs_no_slot() -> None:
    requests = Requests(max_ongoing=1)
    tasks = {name: requests.ask(name) for name in "abc"}
    await settled()
    tasks["b"].cancel()
    await settled()
    await requests.end("a")
    assert requests.running == ["a", "c"]
    await requests.end("c")
    last = requests.ask("last")
    await settled()
    assert requests.running == ["a", "c", "last"]
    await requests.end("last")
    await asyncio.gather(tasks["a"], tasks["c"], last)


async def test_a_client_that_goes_as_its_turn_comes_passes_the_slot_on() -> None:
    requests = Requests(max_ongoing=1)
    tasks = {name: requests.ask(name) for name in "abc"}
    await settled()
    requests._ends["a"].set()
    await asyncio.sleep(0)  # a ends and gives its slot to b
    tasks["b"].cancel()
    await settled()
    assert requests.running == ["a", "c"]
    await requests.end("c")
    await asyncio.gather(tasks["a"], tasks["c"])


async def test_a_client_that_goes_as_a_slot_becomes_free_costs_neither_the_holder_nor_the_slot() -> None:
    requests = Requests(max_ongoing=1)
    tasks = {name: requests.ask(name) for name in "ab"}
    await settled()
    requests._ends["a"].set()
    tasks["b"].cancel()  # a is next to run, and finds b in the queue still
    await tasks["a"]
    last = requests.ask("last")
    await settled()
    assert requests.running == ["a", "last"]
    await requests.end("last")
    await last


async def test_a_turn_that_comes_with_the_end_of_the_wait_is_taken() -> None:
    requests = Requests(max_ongoing=1, max_wait_s=0.02)
    first, second = requests.ask("first"), requests.ask("second")
    await settled()
    time.sleep(0.03)  # noqa: ASYNC251
    requests._ends["first"].set()  # in the next turn of the loop first ends, then the wait does, then second runs
    await settled()
    assert requests.running == ["first", "second"]
    await requests.end("second")
    await asyncio.gather(first, second)


async def test_one_more_urgent_takes_the_place_of_a_client_that_has_just_gone() -> None:
    requests = Requests(max_ongoing=1, max_queued=1, priorities={"gold": 1})
    first, gone = requests.ask("first"), requests.ask("gone")
    await settled()
    gold = requests.ask("gold", "gold")
    gone.cancel()
    await settled()
    await requests.end("first")
    await requests.end("gold")
    await asyncio.gather(first, gold)
    assert requests.running == ["first", "gold"]
