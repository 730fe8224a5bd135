"""An overloaded gateway over HTTP: who is refused, how, and who is served all the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import openai
import pytest

from app.api import build_api
from app.controller import TrafficController
from app.errors import UnavailableError, UpstreamError
from app.schema import PartStatus, Streaming
from app.tenants import OpenTenants
from app.tier import PolicyConfig, TargetPolicy
from tests.app.tier.targets import ScriptedProvider, target
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
            async with asyncio.timeout(CROWDED.overload.max_wait_s / 2):  # at once: the first still holds its slot
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


@pytest.mark.parametrize("lookup", [True, False], ids=["coalesced", "alone"])
async def test_a_client_that_waits_no_longer_gets_an_error_and_its_call_is_ended(
    cache: FakeExactCache, upstream: GatedProvider, lookup: bool
) -> None:
    providers = {"local": upstream, "mid": FakeProvider("medium"), "top": FakeProvider("large")}
    waiting = controller(cache, providers)
    with pytest.raises(UnavailableError, match=r"0\.01 s"):
        await waiting.handle(replace(chat("slow", lookup=lookup), timeout_s=0.01))
    await waiting.drain()
    assert upstream.closed == 1


@pytest.mark.parametrize("header", ["0", "-1", "soon", "nan"])
async def test_a_wait_that_is_none_is_refused(crowded: TrafficController, header: str) -> None:
    api = build_api(crowded, CROWDED, OpenTenants().build(), states, metrics)
    async with served(api) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="x-request-timeout"):
            await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "hi"}], extra_headers={"x-request-timeout": header}
            )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tier_that_would_pause_for_longer_than_the_client_waits_is_passed_by(stream: bool) -> None:
    limited = ScriptedProvider(UpstreamError("status 429", "openai", retry_after_s=4.0), model="medium")
    mid = TargetPolicy("mid", [target(limited)], PolicyConfig())
    gateway = controller(None, {"local": FakeProvider("small"), "mid": mid, "top": FakeProvider("large")}, score=0.5)
    request = replace(chat("hi", stream=stream), timeout_s=3.0)
    answer = await (gateway.stream(request) if stream else gateway.handle(request))
    assert (answer.tier, answer.attempts) == ("top", 2)
    if isinstance(answer, Streaming):
        await answer.parts.aclose()
