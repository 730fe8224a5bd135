"""An overloaded gateway over HTTP: who is refused, how, and who is served all the same."""

from __future__ import annotations

import asyncio

import openai
import pytest

from app.api import build_api
from app.controller import TrafficController
from app.schema import PartStatus
from app.tenants import OpenTenants
from tests.fakes import CONFIG, FakeExactCache, FakeProvider, GatedProvider, chat, controller
from tests.serving import served

CROWDED = CONFIG.model_copy(update={"overload": CONFIG.overload.model_copy(update={"max_ongoing": 1, "max_queued": 0})})


@pytest.fixture
def cache() -> FakeExactCache:
    return FakeExactCache()


@pytest.fixture
def upstream() -> GatedProvider:
    return GatedProvider("small")


@pytest.fixture
def crowded(cache: FakeExactCache, upstream: GatedProvider) -> TrafficController:
    """A gateway with room for one request."""
    providers = {"local": upstream, "mid": FakeProvider("medium"), "top": FakeProvider("large")}
    return controller(cache, providers, config=CROWDED)


async def states() -> list[PartStatus]:
    return []


async def metrics() -> bytes:
    return b""


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_too_many_is_refused_in_openais_shape_and_told_when_to_come_back(
    crowded: TrafficController, upstream: GatedProvider, stream: bool
) -> None:
    first = asyncio.create_task(crowded.handle(chat("first")))
    while not upstream.bodies:  # noqa: ASYNC110
        await asyncio.sleep(0)
    api = build_api(crowded, CROWDED, OpenTenants().build(), states, metrics)
    async with served(api) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="auto",
                messages=[{"role": "user", "content": "second"}],
                stream=stream,
            )
    assert caught.value.status_code == 503
    assert caught.value.code == "overloaded"
    assert caught.value.response.headers["retry-after"] == "1"
    upstream.gate.set()
    await first


async def test_an_exact_hit_and_an_identical_request_are_served_while_all_slots_are_taken(
    crowded: TrafficController, upstream: GatedProvider
) -> None:
    upstream.gate.set()
    await crowded.handle(chat("known"))
    await crowded.drain()
    upstream.gate.clear()
    first = asyncio.create_task(crowded.handle(chat("first")))
    while len(upstream.bodies) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert (await crowded.handle(chat("known"))).cache.reason == "exact"
    same = asyncio.create_task(crowded.handle(chat("first")))
    await asyncio.sleep(0)
    upstream.gate.set()
    assert (await same).cache.reason == "coalesced"
    await first


async def test_a_slot_is_free_again_when_a_stream_ends_or_its_client_goes(
    crowded: TrafficController, upstream: GatedProvider
) -> None:
    for text in ("first", "second", "third"):
        answer = await crowded.stream(chat(text, stream=True))
        await anext(answer.parts)  # type: ignore[union-attr]
        await answer.parts.aclose()  # type: ignore[union-attr]
    await crowded.drain()
    assert len(upstream.bodies) == 3
