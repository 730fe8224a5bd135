"""Identical requests in flight: within a replica, and between two that share a relay, the fake one or a real Redis."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from app.cache import RedisConfig, cache_key
from app.cache.coalesce import Coalescer, Event, Lead, Pace
from app.cache.relay import RedisRelay
from app.cache.store import Limits
from app.config import GatewayConfig
from app.controller import TrafficController
from app.embedded_redis import EmbeddedRedis
from app.errors import (
    CacheUnavailableError,
    ContextLengthError,
    GatewayError,
    InvalidRequestError,
    UnavailableError,
    UpstreamError,
    UpstreamTimeoutError,
)
from app.protocols import FlightRelay
from app.schema import CacheEntry, CacheKey, CacheLookup, ChatRequest, Completion, Outcome, Streaming, StreamPart
from tests.fakes import (
    CONFIG,
    FakeExactCache,
    FakeProvider,
    FakeRelay,
    FakeSemanticCache,
    GatedProvider,
    answer,
    chat,
    controller,
)

Ask = Callable[[TrafficController], Coroutine[Any, Any, str]]
DOWN = UpstreamTimeoutError("no answer in 30 s", "fake")
ASK = chat("hello", model="mid")
COALESCED = ("cache", "hit", "coalesced")
REQUEST_ID = ContextVar("REQUEST_ID", default="nobody's")


@pytest.fixture
def upstream() -> GatedProvider:
    return GatedProvider("medium")


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.redis)])
async def relay(request: pytest.FixtureRequest, cache: FakeExactCache) -> AsyncIterator[FlightRelay]:
    if request.param == "fake":
        yield FakeRelay(cache)
        return
    store = RedisConfig(timeout_s=5).build(lambda tenant: Limits(60), request.getfixturevalue("redis").url)
    await store._client.flushall()
    yield store.relay()
    # what a gateway still tells its followers would open a connection again after the close
    background = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*background, return_exceptions=True)
    await store.close()


def gateway(
    cache: FakeExactCache,
    upstream: FakeProvider,
    relay: FlightRelay | None = None,
    *,
    semantic: FakeSemanticCache | None = None,
    config: GatewayConfig = CONFIG,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> TrafficController:
    providers = {"local": upstream, "mid": upstream, "top": upstream}
    return controller(cache, providers, semantic=semantic, config=config, on_end=on_end, relay=relay)


class WatchedRelay:
    """A relay that counts the looks at a leader's log."""

    def __init__(self, relay: FlightRelay) -> None:
        self._relay = relay
        self.publish = relay.publish
        self.reads = 0

    async def claim(self, key: CacheKey, token: str) -> tuple[str | None, bool]:
        return await self._relay.claim(key, token)

    async def read(self, key: CacheKey, token: str, offset: int) -> tuple[bool, bytes]:
        found = await self._relay.read(key, token, offset)
        self.reads += 1
        return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def take_turns() -> None:
    """Let every task go as far as it can; nothing of the fakes waits for a network."""
    for _ in range(30):
        await asyncio.sleep(0)


async def whole(gateway: TrafficController, request: ChatRequest = ASK) -> str:
    return text_of((await gateway.handle(request)).completion)


async def streamed(gateway: TrafficController, request: ChatRequest = ASK) -> str:
    answer = await gateway.stream(request)
    if isinstance(answer, Outcome):
        return text_of(answer.completion)
    return "".join([words_of(part) async for part in answer.parts])


def text_of(completion: Completion) -> str:
    return str(completion.body["choices"][0]["message"]["content"])


def words_of(part: StreamPart) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in part.chunks for choice in chunk["choices"])


def seen(outcome: Outcome | Streaming) -> tuple[str, str, str]:
    return outcome.tier, outcome.cache.status, outcome.cache.reason


# Within a replica


@pytest.mark.parametrize("first", [whole, streamed])
async def test_identical_requests_in_flight_make_one_upstream_call(
    cache: FakeExactCache, upstream: GatedProvider, first: Ask
) -> None:
    controller = gateway(cache, upstream)
    tasks = [asyncio.create_task(ask(controller)) for ask in [first, *[whole, streamed] * 10]]
    await take_turns()
    upstream.gate.set()
    assert set(await asyncio.gather(*tasks)) == {"Hello there, friend."}
    assert len(upstream.bodies) == 1


async def test_a_follower_costs_nothing_saves_the_whole_bill_and_names_the_stored_answer(
    cache: FakeExactCache, upstream: GatedProvider
) -> None:
    outcomes: list[Outcome] = []
    controller = gateway(cache, upstream, on_end=outcomes.append)
    tasks = [asyncio.create_task(controller.handle(ASK)) for _ in range(2)]
    await take_turns()
    upstream.gate.set()
    led, followed = await asyncio.gather(*tasks)
    assert (seen(led), seen(followed)) == (("mid", "miss", "exact only"), COALESCED)
    assert (followed.completion, followed.attempts, followed.score, followed.route) == (
        led.completion,
        0,
        None,
        "cache",
    )
    assert (followed.cost_usd, followed.saved_usd) == pytest.approx((0, 0.002))
    assert outcomes == [led, followed]
    assert (await controller.handle(ASK)).cache.entry_id == followed.cache.entry_id


async def test_a_streaming_follower_gets_each_part_as_it_comes(cache: FakeExactCache, upstream: GatedProvider) -> None:
    outcomes: list[Outcome] = []
    controller = gateway(cache, upstream, on_end=outcomes.append)
    led, followed = await asyncio.gather(controller.stream(ASK), controller.stream(ASK))
    assert isinstance(led, Streaming)
    assert isinstance(followed, Streaming)
    assert (seen(led), seen(followed), followed.target) == (("mid", "miss", "exact only"), COALESCED, "medium")
    assert words_of(await anext(followed.parts)) == "Hello "
    upstream.gate.set()
    assert "".join([words_of(part) async for part in followed.parts]) == "there, friend."
    assert "".join([words_of(part) async for part in led.parts]) == "Hello there, friend."
    assert [(o.tier, o.finished, text_of(o.completion)) for o in outcomes] == [
        ("mid", True, "Hello there, friend."),
        ("cache", True, "Hello there, friend."),
    ]


async def test_a_leaders_semantic_hit_is_its_followers_hit(cache: FakeExactCache, upstream: GatedProvider) -> None:
    class SlowSemanticCache(FakeSemanticCache):
        async def lookup(self, key: CacheKey, since: float = 0.0) -> CacheLookup:
            await upstream.gate.wait()
            return await super().lookup(key, since)

    semantic = SlowSemanticCache(CacheEntry("hi", answer("Hi."), "local"))
    controller = gateway(cache, upstream, semantic=semantic)
    tasks = [asyncio.create_task(ask(ASK)) for ask in (controller.handle, controller.stream)]
    await take_turns()
    upstream.gate.set()
    outcomes = [outcome for outcome in await asyncio.gather(*tasks) if isinstance(outcome, Outcome)]
    assert [(seen(o), text_of(o.completion)) for o in outcomes] == [(("cache", "hit", "verified"), "Hi.")] * 2
    assert (len(semantic.keys), upstream.bodies) == (1, [])


OTHERS = {
    "another tenant": (chat("hello", tenant="globex"), chat("hello")),
    "another text": (chat("goodbye"), chat("hello")),
    "another age": (chat("hello"), ChatRequest(chat("hello").body, "acme", "hello", max_age_s=60)),
    "other tiers": (chat("hello"), replace(chat("hello"), tiers=("top",))),
    "no-cache": (chat("hello", lookup=False), chat("hello", lookup=False)),
    "no-store": (chat("hello", lookup=False, store=False), chat("hello")),
    "temperature": (chat("hello", temperature=1.5), chat("hello", temperature=1.5)),
    "volatile": (chat("What time is it now?"), chat("What time is it now?")),
}


@pytest.mark.parametrize("requests", OTHERS.values(), ids=OTHERS.keys())
async def test_only_requests_that_may_share_an_answer_are_coalesced(
    cache: FakeExactCache, upstream: GatedProvider, requests: tuple[ChatRequest, ChatRequest]
) -> None:
    controller = gateway(cache, upstream)
    tasks = [asyncio.create_task(controller.handle(request)) for request in requests]
    await take_turns()
    upstream.gate.set()
    await asyncio.gather(*tasks)
    assert len(upstream.bodies) == 2


async def test_space_around_the_text_makes_no_other_request(cache: FakeExactCache, upstream: GatedProvider) -> None:
    controller = gateway(cache, upstream)
    tasks = [asyncio.create_task(controller.handle(chat(text))) for text in ("hello", " hello\n")]
    await take_turns()
    upstream.gate.set()
    await asyncio.gather(*tasks)
    assert len(upstream.bodies) == 1


async def test_coalescing_can_be_turned_off(cache: FakeExactCache, upstream: GatedProvider) -> None:
    off = CONFIG.model_copy(update={"cache": CONFIG.cache.model_copy(update={"coalesce": False})})
    upstream.gate.set()
    controller = gateway(cache, upstream, config=off)
    await asyncio.gather(controller.handle(ASK), controller.handle(ASK))
    assert len(upstream.bodies) == 2


async def test_a_failing_leader_does_not_fail_its_followers(cache: FakeExactCache, upstream: GatedProvider) -> None:
    upstream.failures = [DOWN]
    controller = gateway(cache, upstream)
    tasks = [asyncio.create_task(ask(controller)) for ask in (whole, whole, whole)]
    await take_turns()
    upstream.gate.set()
    led, *followed = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(led, UnavailableError)
    assert followed == ["Hello there, friend."] * 2
    assert len(upstream.bodies) == 2


async def test_after_two_failed_leaders_everyone_asks_for_itself(
    cache: FakeExactCache, upstream: GatedProvider
) -> None:
    upstream.failures = [DOWN] * 5
    upstream.gate.set()
    controller = gateway(cache, upstream)
    results = await asyncio.gather(*[whole(controller) for _ in range(5)], return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 5
    assert len(upstream.bodies) == 5


@pytest.mark.parametrize("error", [InvalidRequestError("`stop` is too long", "stop"), ContextLengthError("too long")])
async def test_a_request_that_is_refused_is_refused_to_all_by_one_call(
    cache: FakeExactCache, upstream: GatedProvider, error: GatewayError
) -> None:
    upstream.failures = [error]
    controller = gateway(cache, upstream)
    tasks = [asyncio.create_task(ask(controller)) for ask in (whole, streamed, whole)]
    await take_turns()
    upstream.gate.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 3
    assert len(upstream.bodies) == 1


async def test_a_stream_that_breaks_off_ends_who_had_a_part_of_it_and_nobody_else(
    cache: FakeExactCache, upstream: GatedProvider
) -> None:
    upstream.failures = [UpstreamError("the connection broke", "fake")]
    outcomes: list[Outcome] = []
    controller = gateway(cache, upstream, on_end=outcomes.append)
    tasks = [asyncio.create_task(ask(controller)) for ask in (streamed, streamed, whole)]
    await take_turns()
    upstream.gate.set()
    led, followed, plain = await asyncio.gather(*tasks, return_exceptions=True)
    assert (str(led), str(followed), plain) == (*["the connection broke"] * 2, "Hello there, friend.")
    assert [(o.tier, o.finished, text_of(o.completion)) for o in outcomes] == [
        ("mid", False, "Hello "),
        ("cache", False, "Hello "),
        ("mid", True, "Hello there, friend."),
    ]


async def test_a_leader_whose_client_goes_away_fails_nobody(cache: FakeExactCache, upstream: GatedProvider) -> None:
    outcomes: list[Outcome] = []
    controller = gateway(cache, upstream, on_end=outcomes.append)
    leader, follower = [asyncio.create_task(controller.handle(ASK)) for _ in range(2)]
    await take_turns()
    leader.cancel()
    await take_turns()
    upstream.gate.set()
    assert seen(await follower) == COALESCED
    assert [outcome.tier for outcome in outcomes] == ["mid", "cache"]  # the call is paid for, and counted
    assert len(upstream.bodies) == 1


@pytest.mark.parametrize("ask", [whole, streamed])
async def test_the_last_client_that_goes_away_stops_the_upstream(
    cache: FakeExactCache, upstream: GatedProvider, ask: Ask
) -> None:
    controller = gateway(cache, upstream)
    tasks = [asyncio.create_task(ask(controller)) for _ in range(2)]
    await take_turns()
    tasks[0].cancel()
    await take_turns()
    assert upstream.closed == 0
    tasks[1].cancel()
    await take_turns()
    assert upstream.closed == 1
    upstream.gate.set()
    assert await whole(controller) == "Hello there, friend."


async def test_a_call_has_no_part_of_the_context_that_ends_with_the_request_that_began_it(
    cache: FakeExactCache,
) -> None:
    class Provider(FakeProvider):
        async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
            return answer(REQUEST_ID.get())

    REQUEST_ID.set("the request's")
    assert await whole(gateway(cache, Provider("medium"))) == "nobody's"


async def test_nobody_waits_longer_than_its_own_patience() -> None:
    async def never(lead: Lead) -> AsyncGenerator[Event, None]:
        await asyncio.Event().wait()
        yield StreamPart([], "")

    coalescer = Coalescer()
    key = cache_key(ASK.body, "acme")
    leader = asyncio.ensure_future(anext(coalescer.events(key, never, False, 60)))
    await take_turns()
    with pytest.raises(UnavailableError, match=r"No answer in 0\.05 s"):
        await anext(coalescer.events(key, never, False, 0.05))
    assert not leader.done()
    leader.cancel()
    await coalescer.drain()


# Between replicas


@pytest.mark.parametrize("first", [whole, streamed])
async def test_identical_requests_at_two_replicas_make_one_upstream_call(
    cache: FakeExactCache,
    upstream: GatedProvider,
    relay: FlightRelay,
    first: Ask,
) -> None:
    watched = WatchedRelay(relay)
    replicas = [gateway(cache, upstream, relay), gateway(cache, upstream, watched)]
    tasks = [asyncio.create_task(first(replicas[0]))]
    await until(lambda: len(upstream.bodies) == 1)
    tasks += [asyncio.create_task(ask(replica)) for replica in replicas for ask in [whole, streamed] * 5]
    await take_turns()
    await until(lambda: watched.reads > 0)
    upstream.gate.set()
    assert set(await asyncio.gather(*tasks)) == {"Hello there, friend."}
    assert len(upstream.bodies) == 1
    await asyncio.gather(*[replica.drain() for replica in replicas])
    assert len(cache.entries) == 1


async def test_a_stream_crosses_to_another_replica_part_by_part(
    cache: FakeExactCache, upstream: GatedProvider, relay: FlightRelay
) -> None:
    led = await gateway(cache, upstream, relay).stream(ASK)
    followed = await gateway(cache, upstream, relay).stream(ASK)
    assert isinstance(led, Streaming)
    assert isinstance(followed, Streaming)
    assert seen(followed) == COALESCED
    assert words_of(await anext(followed.parts)) == "Hello "
    upstream.gate.set()
    assert "".join([words_of(part) async for part in followed.parts]) == "there, friend."
    assert "".join([words_of(part) async for part in led.parts]) == "Hello there, friend."


@pytest.mark.parametrize("error", [InvalidRequestError("`stop` is too long", "stop", "bad"), DOWN])
async def test_a_refusal_crosses_and_a_failure_makes_the_other_replica_lead(
    cache: FakeExactCache, upstream: GatedProvider, relay: FlightRelay, error: GatewayError
) -> None:
    upstream.failures = [error]
    leader = asyncio.create_task(whole(gateway(cache, upstream, relay)))
    await until(lambda: len(upstream.bodies) == 1)
    watched = WatchedRelay(relay)
    follower = asyncio.create_task(whole(gateway(cache, upstream, watched)))
    await until(lambda: watched.reads > 0)
    upstream.gate.set()
    with pytest.raises(GatewayError):
        await leader
    if error is DOWN:
        assert await follower == "Hello there, friend."
    else:
        with pytest.raises(InvalidRequestError, match="`stop` is too long") as refused:
            await follower
        assert (refused.value.param, refused.value.code, len(upstream.bodies)) == ("stop", "bad", 1)


async def test_a_call_goes_on_while_another_replica_waits_and_stops_after(
    cache: FakeExactCache, upstream: GatedProvider, relay: FlightRelay
) -> None:
    leader = asyncio.create_task(whole(gateway(cache, upstream, relay)))
    await until(lambda: len(upstream.bodies) == 1)
    watched = WatchedRelay(relay)
    follower = asyncio.create_task(whole(gateway(cache, upstream, watched)))
    await until(lambda: watched.reads > 0)
    leader.cancel()
    await asyncio.sleep(1.2)  # two heartbeats
    assert upstream.closed == 0
    follower.cancel()
    await until(lambda: upstream.closed == 1)


@pytest.mark.parametrize("max_age_s", [None, 60.0])
async def test_an_answer_stored_between_the_lookup_and_the_lead_is_found(
    cache: FakeExactCache, upstream: GatedProvider, relay: FlightRelay, max_age_s: float | None
) -> None:
    class SlowRelay(WatchedRelay):
        asked, go = asyncio.Event(), asyncio.Event()

        async def claim(self, key: CacheKey, token: str) -> tuple[str | None, bool]:
            self.asked.set()
            await self.go.wait()
            return await super().claim(key, token)

    upstream.gate.set()
    slow = SlowRelay(relay)
    late = asyncio.create_task(gateway(cache, upstream, slow).handle(replace(ASK, max_age_s=max_age_s)))
    await slow.asked.wait()
    first = gateway(cache, upstream, relay)
    await first.handle(ASK)
    await first.drain()
    if isinstance(relay, RedisRelay):  # the answer is in the fake cache; the relay sees one in Redis
        key = cache_key(ASK.body, ASK.tenant)
        await relay._client.set(f"tw:{{{key.scope}}}:e:{key.entry}", b"{}")
    slow.go.set()
    assert seen(await late) == ("cache", "hit", "exact")
    assert len(upstream.bodies) == 1


async def test_without_redis_each_replica_coalesces_for_itself(cache: FakeExactCache, upstream: GatedProvider) -> None:
    relay = FakeRelay(cache)
    relay.error = CacheUnavailableError("Redis did not answer")
    replicas = [gateway(cache, upstream, relay) for _ in range(2)]
    tasks = [asyncio.create_task(ask(replica)) for replica in replicas for ask in (whole, streamed, whole)]
    await take_turns()
    upstream.gate.set()
    assert set(await asyncio.gather(*tasks)) == {"Hello there, friend."}
    assert len(upstream.bodies) == 2


async def test_a_pause_of_redis_does_not_break_a_followed_stream(
    cache: FakeExactCache, upstream: GatedProvider
) -> None:
    relay = FakeRelay(cache)
    led = asyncio.create_task(streamed(gateway(cache, upstream, relay)))
    await until(lambda: any(relay.logs.values()))
    followed = await gateway(cache, upstream, relay).stream(ASK)
    assert isinstance(followed, Streaming)
    assert words_of(await anext(followed.parts)) == "Hello "
    relay.error = CacheUnavailableError("Redis did not answer")
    rest = asyncio.create_task(anext(followed.parts))
    upstream.gate.set()
    assert await led == "Hello there, friend."
    await asyncio.sleep(0.1)  # looks in vain, and an end that is not written
    relay.error = None
    assert words_of(await rest) == "there, "
    assert "".join([words_of(part) async for part in followed.parts]) == "friend."


@pytest.mark.parametrize("position", [0, 1])
async def test_a_lost_redis_breaks_a_followed_stream_and_makes_others_ask_for_themselves(position: int) -> None:
    cache = FakeExactCache()
    relay = FakeRelay(cache)
    key = cache_key(ASK.body, ASK.tenant)
    relay.leaders[key] = "elsewhere"
    relay.logs["elsewhere"] = b'{"part":{"chunks":[],"target":"medium"}}\n' * position
    own = Outcome(answer(), "mid", CacheLookup("miss", "exact only"), None, 1, 0.0, 0.0, 0.0, "pinned")

    async def ask(lead: Lead) -> AsyncGenerator[Event, None]:
        await lead()
        yield own

    watched = WatchedRelay(relay)
    events = Coalescer(watched, Pace(poll_s=0.001, silence_s=0.05)).events(key, ask, True, 60)
    following = asyncio.ensure_future(anext(events))
    await until(lambda: watched.reads > 0)
    relay.error = CacheUnavailableError("Redis did not answer")
    if position == 0:
        assert await following is own
    else:
        assert await following == StreamPart([], "medium")
        with pytest.raises(UpstreamError, match="the log of the call was lost"):
            await anext(events)


LEADER = """
import asyncio, sys
from app.cache import RedisConfig
from app.cache.coalesce import Coalescer
from app.cache.relay import RedisRelay
from app.schema import CacheKey, StreamPart

async def ask(lead):
    await lead()
    print("asked", flush=True)
    yield StreamPart([], "medium")
    await asyncio.Event().wait()

async def main():
    store = RedisConfig(timeout_s=5).build(url=sys.argv[1])
    coalescer = Coalescer(RedisRelay(store._client, store._call, lease_s=1.0))
    async for _ in coalescer.events(CacheKey("scope", "entry", "hello", True), ask, True, 60):
        pass

asyncio.run(main())
"""


@pytest.mark.redis
async def test_the_followers_of_a_killed_replica_ask_again(redis: EmbeddedRedis) -> None:
    own = Outcome(answer(), "mid", CacheLookup("miss", "exact only"), None, 1, 0.0, 0.0, 0.0, "pinned")

    async def ask(lead: Lead) -> AsyncGenerator[Event, None]:
        await lead()
        yield own

    store = RedisConfig(timeout_s=5).build(url=redis.url)
    key = CacheKey("scope", "entry", "hello", True)
    leader = await asyncio.create_subprocess_exec(sys.executable, "-c", LEADER, redis.url, stdout=subprocess.PIPE)
    try:
        assert leader.stdout is not None
        assert await leader.stdout.readline() == b"asked\n"
        coalescers = [Coalescer(store.relay()) for _ in range(2)]
        streams = [coalescer.events(key, ask, True, 60) for coalescer in coalescers]
        assert [await anext(stream) for stream in streams] == [StreamPart([], "medium")] * 2
        waiting = [asyncio.ensure_future(anext(c.events(key, ask, False, 60))) for c in coalescers]
        await asyncio.sleep(1.5)  # longer than its lease, which it renews
        assert not any(task.done() for task in waiting)
    finally:
        leader.kill()
        await leader.wait()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [own] * 2
        for stream in streams:
            with pytest.raises(UpstreamError, match="the replica that made the call was lost"):
                await anext(stream)
    await asyncio.gather(*[coalescer.drain() for coalescer in coalescers])
    await store.close()
