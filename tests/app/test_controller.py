from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from app.cache import cache_key
from app.config import GatewayConfig
from app.controller import TrafficController
from app.errors import (
    CacheUnavailableError,
    ClassifierUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    UnavailableError,
    UnfitError,
    UpstreamError,
    UpstreamTimeoutError,
)
from app.schema import CacheEntry, ChatRequest, Completion, Outcome, Streaming, StreamPart
from app.wire import ChunkAssembler
from tests.fakes import (
    CONFIG,
    EMBEDDING,
    USAGE,
    FakeClassifier,
    FakeExactCache,
    FakeProvider,
    FakeSemanticCache,
    answer,
    chat,
    controller,
)

Providers = dict[str, FakeProvider]
DOWN = UpstreamTimeoutError("no answer in 30 s", "fake")
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def remember(cache: FakeExactCache, request: ChatRequest, completion: Completion) -> None:
    key = cache_key(request.body, request.tenant)
    cache.entries[key.scope, key.entry] = CacheEntry(key.text, completion, "local")


async def read(answer: Streaming | Outcome) -> list[StreamPart]:
    assert isinstance(answer, Streaming)
    return [part async for part in answer.parts]


def text_of(parts: list[StreamPart]) -> str:
    assembler = ChunkAssembler()
    for part in parts:
        for chunk in part.chunks:
            assembler.add(chunk)
    return str(assembler.completion()["choices"][0]["message"]["content"])


# Looking up


async def test_the_same_text_is_answered_from_the_cache(cache: FakeExactCache, providers: Providers) -> None:
    remember(cache, chat("hello"), answer("Hi."))
    outcome = await controller(cache, providers).handle(chat("hello"))
    assert (outcome.tier, outcome.cache.status, outcome.cache.reason) == ("cache", "hit", "exact")
    assert (outcome.completion, outcome.attempts, outcome.score, outcome.route) == (answer("Hi."), 0, None, "cache")
    assert not any(provider.bodies for provider in providers.values())


async def test_a_text_of_the_same_meaning_is_answered_from_the_cache(
    cache: FakeExactCache, providers: Providers
) -> None:
    semantic = FakeSemanticCache(CacheEntry("hi", answer("Hi."), "local"), similarity=0.97)
    outcome = await controller(cache, providers, semantic=semantic).handle(chat("hello"))
    assert (outcome.tier, outcome.cache.reason, outcome.cache.similarity) == ("cache", "verified", 0.97)
    assert outcome.completion == answer("Hi.")


async def test_an_exact_hit_is_not_looked_up_by_meaning(cache: FakeExactCache, providers: Providers) -> None:
    semantic = FakeSemanticCache()
    remember(cache, chat("hello"), answer("Hi."))
    await controller(cache, providers, semantic=semantic).handle(chat("hello"))
    assert semantic.keys == []


async def test_the_result_of_a_tool_is_not_looked_up_by_meaning(cache: FakeExactCache, providers: Providers) -> None:
    semantic = FakeSemanticCache(CacheEntry("20 degrees", answer("Mild."), "local"))
    request = chat(messages=[{"role": "tool", "tool_call_id": "1", "content": "40 degrees"}])
    outcome = await controller(cache, providers, semantic=semantic).handle(request)
    assert (outcome.cache.status, outcome.cache.reason, semantic.keys) == ("miss", "exact only", [])


async def test_a_miss_is_answered_by_a_tier_and_remembered(cache: FakeExactCache, providers: Providers) -> None:
    gateway = controller(cache, providers, semantic=FakeSemanticCache())
    first = await gateway.handle(chat("hello"))
    await gateway.drain()
    second = await gateway.handle(chat("hello"))
    assert (first.tier, first.cache.status, second.tier, second.completion) == (
        "local",
        "miss",
        "cache",
        first.completion,
    )
    assert [(entry.text, entry.tier) for entry in cache.entries.values()] == [("hello", "local")]


async def test_the_embedding_of_a_miss_is_stored_with_the_answer(cache: FakeExactCache, providers: Providers) -> None:
    gateway = controller(cache, providers, semantic=FakeSemanticCache())
    await gateway.handle(chat("hello"))
    await gateway.drain()
    assert cache.embeddings == [EMBEDDING]


@pytest.mark.parametrize("fields", [{"lookup": False}, {"max_age_s": 60.0}])
async def test_an_answer_that_no_lookup_by_meaning_preceded_is_embedded_when_it_is_stored(
    cache: FakeExactCache, providers: Providers, fields: dict[str, Any]
) -> None:
    remember(cache, chat("hello"), answer("An hour old."))
    gateway = controller(cache, providers, semantic=FakeSemanticCache())
    await gateway.handle(replace(chat("hello"), **fields))
    await gateway.drain()
    assert cache.embeddings == [EMBEDDING]


async def test_an_answer_that_cannot_be_embedded_is_stored_for_the_same_text(
    cache: FakeExactCache, providers: Providers
) -> None:
    semantic = FakeSemanticCache()
    semantic.error = CacheUnavailableError("down")
    gateway = controller(cache, providers, semantic=semantic)
    await gateway.handle(chat("hello", lookup=False))
    await gateway.drain()
    assert (len(cache.entries), cache.embeddings) == (1, [None])


async def test_no_answer_is_shared_between_tenants(cache: FakeExactCache, providers: Providers) -> None:
    remember(cache, chat("hello", tenant="acme"), answer("Hi."))
    outcome = await controller(cache, providers).handle(chat("hello", tenant="globex"))
    assert outcome.cache.status == "miss"


@pytest.mark.parametrize(
    ("fields", "reason"), [({"lookup": False}, "cache-control"), ({"temperature": 1.5}, "temperature")]
)
async def test_a_request_that_asks_for_no_cache_bypasses_it(
    cache: FakeExactCache, providers: Providers, fields: dict[str, Any], reason: str
) -> None:
    remember(cache, chat("hello", **fields), answer("Hi."))
    outcome = await controller(cache, providers).handle(chat("hello", **fields))
    assert (outcome.tier, outcome.cache.status, outcome.cache.reason) == ("local", "bypass", reason)


async def test_a_gateway_without_a_cache_bypasses_it(providers: Providers) -> None:
    outcome = await controller(None, providers).handle(chat("hello"))
    assert (outcome.tier, outcome.cache.status, outcome.cache.reason) == ("local", "bypass", "no cache")


async def test_a_cache_that_is_down_costs_a_miss_and_a_log_line_says_so(
    cache: FakeExactCache, providers: Providers, caplog: pytest.LogCaptureFixture
) -> None:
    cache.error = CacheUnavailableError("Redis did not answer")
    gateway = controller(cache, providers)
    outcome = await gateway.handle(chat("hello"))
    await gateway.drain()
    assert (outcome.tier, outcome.cache.status, outcome.cache.reason) == ("local", "miss", "cache unavailable")
    assert caplog.messages == [
        "cache unavailable: Redis did not answer",
        "an answer was not cached: Redis did not answer",
    ]


async def test_a_semantic_cache_that_is_down_costs_a_miss(cache: FakeExactCache, providers: Providers) -> None:
    semantic = FakeSemanticCache()
    semantic.error = CacheUnavailableError("no replica answered")
    gateway = controller(cache, providers, semantic=semantic)
    outcome = await gateway.handle(chat("hello"))
    await gateway.drain()
    assert (outcome.tier, outcome.cache.reason) == ("local", "cache unavailable")
    assert cache.embeddings == [None]


# Routing and fallback


@pytest.mark.parametrize(("score", "tier"), [(0.0, "local"), (0.29, "local"), (0.3, "mid"), (0.7, "top"), (1.0, "top")])
async def test_the_score_picks_the_cheapest_tier_whose_ceiling_is_above_it(
    cache: FakeExactCache, providers: Providers, score: float, tier: str
) -> None:
    outcome = await controller(cache, providers, score=score).handle(chat("hello"))
    assert (outcome.tier, outcome.score, outcome.attempts, outcome.route) == (tier, score, 1, "score")


async def test_the_last_user_turn_is_what_is_scored(cache: FakeExactCache, providers: Providers) -> None:
    classifier = FakeClassifier()
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    await controller(cache, providers, classifier=classifier).handle(chat(messages=messages))
    assert classifier.prompts == ["hello"]


async def test_a_routed_request_is_addressed_to_the_tier_and_otherwise_as_it_was_sent(
    cache: FakeExactCache, providers: Providers
) -> None:
    request = chat("hello", seed=7, invented_tomorrow=True)
    await controller(cache, providers).handle(request)
    assert providers["local"].bodies == [{**request.body, "model": "local"}]


async def test_a_pinned_request_is_addressed_to_the_model_it_names(cache: FakeExactCache, providers: Providers) -> None:
    await controller(cache, providers).handle(chat("hello", model="medium"))
    assert providers["mid"].bodies[0]["model"] == "medium"


@pytest.mark.parametrize("model", ["mid", "medium"])
async def test_a_model_asked_for_by_name_is_pinned_unscored(
    cache: FakeExactCache, providers: Providers, model: str
) -> None:
    classifier = FakeClassifier()
    outcome = await controller(cache, providers, classifier=classifier).handle(chat("hello", model=model))
    assert (outcome.tier, outcome.score, outcome.route, classifier.prompts) == ("mid", None, "pinned", [])


async def test_an_alias_is_routed_like_auto(cache: FakeExactCache, providers: Providers) -> None:
    outcome = await controller(cache, providers, score=0.5).handle(chat("hello", model="gpt-4"))
    assert (outcome.tier, outcome.route) == ("mid", "score")


@pytest.mark.parametrize("ask", [TrafficController.handle, TrafficController.stream])
async def test_an_unknown_model_is_refused_before_anything_is_asked(providers: Providers, ask: Any) -> None:
    classifier = FakeClassifier()
    with pytest.raises(ModelNotFoundError):
        await ask(controller(None, providers, classifier=classifier), chat("hello", model="gpt-9"))
    assert classifier.prompts == []


async def test_a_classifier_that_is_down_costs_the_top_tier(cache: FakeExactCache, providers: Providers) -> None:
    classifier = FakeClassifier(error=ClassifierUnavailableError("no replica answered"))
    outcome = await controller(cache, providers, classifier=classifier).handle(chat("hello"))
    assert (outcome.tier, outcome.score, outcome.route) == ("top", None, "unclassified")


async def test_a_failing_tier_falls_back_to_the_next_stronger_one(cache: FakeExactCache, providers: Providers) -> None:
    providers["local"].error = DOWN
    outcome = await controller(cache, providers, score=0.1).handle(chat("hello"))
    assert (outcome.tier, outcome.attempts, outcome.completion.target) == ("mid", 2, "medium")


async def test_a_fallback_never_goes_to_a_weaker_tier(cache: FakeExactCache, providers: Providers) -> None:
    providers["top"].error = DOWN
    with pytest.raises(UnavailableError, match=r"tried: top"):
        await controller(cache, providers, score=0.9).handle(chat("hello"))
    assert not providers["local"].bodies
    assert not providers["mid"].bodies


async def test_a_pinned_tier_that_fails_has_no_fallback(cache: FakeExactCache, providers: Providers) -> None:
    providers["mid"].error = DOWN
    with pytest.raises(UnavailableError, match=r"tried: mid\)"):
        await controller(cache, providers).handle(chat("hello", model="mid"))


@pytest.mark.parametrize("ask", [TrafficController.handle, TrafficController.stream])
async def test_with_all_tiers_down_the_gateway_is_unavailable(
    cache: FakeExactCache, providers: Providers, ask: Any
) -> None:
    for provider in providers.values():
        provider.error = DOWN
    with pytest.raises(UnavailableError, match=r"tried: local, mid, top\). Try again in 5 s"):
        await ask(controller(cache, providers), chat("hello"))


@pytest.mark.parametrize("error", [ContextLengthError("longer than 2048 tokens"), UnfitError("no `n` over 1", "n")])
async def test_a_prompt_that_is_too_long_or_else_unfit_for_one_tier_goes_to_the_next(
    cache: FakeExactCache, providers: Providers, error: UnfitError
) -> None:
    providers["local"].error = error
    outcome = await controller(cache, providers).handle(chat("hello"))
    assert (outcome.tier, outcome.attempts) == ("mid", 2)


async def test_a_prompt_too_long_for_every_tier_is_the_clients_error(
    cache: FakeExactCache, providers: Providers
) -> None:
    for provider in providers.values():
        provider.error = ContextLengthError(f"too long for {provider.completion.target}")
    with pytest.raises(ContextLengthError, match="too long for large"):
        await controller(cache, providers).handle(chat("hello"))


@pytest.mark.parametrize("ask", [TrafficController.handle, TrafficController.stream])
async def test_a_refused_request_is_not_tried_elsewhere(cache: FakeExactCache, providers: Providers, ask: Any) -> None:
    providers["local"].error = InvalidRequestError("`stop` is too long", "stop")
    with pytest.raises(InvalidRequestError, match="`stop`"):
        await ask(controller(cache, providers), chat("hello"))
    assert not providers["mid"].bodies


TOOLS = [{"type": "function", "function": {"name": "weather"}}]
LOCAL_MODEL = GatewayConfig.model_validate(
    {"tiers": [{"name": "local", "max_score": 0.5, "llm": {"model": "small"}}, CONFIG.tiers[-1].model_dump()]}
)


async def test_a_request_with_tools_leaves_out_the_tiers_that_cannot_call_them(
    cache: FakeExactCache, providers: Providers
) -> None:
    gateway = controller(cache, providers, config=LOCAL_MODEL)
    tiers = [(await gateway.handle(chat("hello", tools=tools))).tier for tools in (None, [], TOOLS)]
    assert tiers == ["local", "local", "top"]


async def test_tools_at_a_pinned_tier_that_cannot_call_them_are_refused(
    cache: FakeExactCache, providers: Providers
) -> None:
    with pytest.raises(InvalidRequestError, match="Tiers that support them: top") as raised:
        await controller(cache, providers, config=LOCAL_MODEL).handle(chat("hello", model="local", tools=TOOLS))
    assert raised.value.param == "tools"


# Storing


@pytest.mark.parametrize(
    ("fields", "completion"),
    [
        ({}, answer("Cut", finish_reason="length")),
        ({}, answer(None, tool_calls=[CALL], finish_reason="tool_calls")),
        ({"store": False}, answer()),
        ({"temperature": 1.5}, answer()),
    ],
    ids=["truncated", "tool calls", "no-store", "temperature"],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_cannot_serve_others_is_not_stored(
    cache: FakeExactCache, providers: Providers, fields: dict[str, Any], completion: Completion, streamed: bool
) -> None:
    providers["local"].completion = completion
    gateway = controller(cache, providers)
    await (read(await gateway.stream(chat(**fields))) if streamed else gateway.handle(chat(**fields)))
    await gateway.drain()
    assert cache.entries == {}


async def test_a_request_for_a_new_answer_replaces_the_stored_one(cache: FakeExactCache, providers: Providers) -> None:
    remember(cache, chat("hello"), answer("An old answer."))
    gateway = controller(cache, providers)
    await gateway.handle(chat("hello", lookup=False))
    await gateway.drain()
    assert [entry.completion for entry in cache.entries.values()] == [answer()]


async def test_a_slow_write_does_not_hold_up_the_answer(providers: Providers) -> None:
    class SlowCache(FakeExactCache):
        written = asyncio.Event()

        async def put(self, *args: Any) -> None:
            await self.written.wait()
            await super().put(*args)

    cache = SlowCache()
    gateway = controller(cache, providers)
    async with asyncio.timeout(1):
        await gateway.handle(chat("hello"))
    assert cache.entries == {}
    cache.written.set()
    await gateway.drain()
    assert len(cache.entries) == 1


# Streams


async def test_a_stream_comes_chunk_by_chunk(cache: FakeExactCache, providers: Providers) -> None:
    streaming = await controller(cache, providers).stream(chat("hello", stream=True))
    assert isinstance(streaming, Streaming)
    assert (streaming.tier, streaming.target, streaming.attempts, streaming.cache.status) == (
        "local",
        "small",
        1,
        "miss",
    )
    parts = await read(streaming)
    assert len(parts) == 5  # three words, the finish and the usage
    assert text_of(parts) == "Hello there, friend."


async def test_a_stream_that_fails_before_its_first_chunk_falls_back(
    cache: FakeExactCache, providers: Providers
) -> None:
    providers["local"].error = DOWN
    providers["mid"].breaks_after = 0
    streaming = await controller(cache, providers).stream(chat("hello"))
    assert isinstance(streaming, Streaming)
    assert (streaming.tier, streaming.target, streaming.attempts) == ("top", "large", 3)
    assert (await read(streaming))[0].target == "large"


async def test_a_stream_that_ends_before_its_first_chunk_falls_back(
    cache: FakeExactCache, providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakes.words_of", lambda body: iter(()))
    with pytest.raises(UnavailableError, match="tried: local, mid, top"):
        await controller(cache, providers).stream(chat("hello"))


@pytest.mark.parametrize(("chunks", "came"), [(2, "Hello there, "), (4, "Hello there, friend.")])
async def test_a_stream_that_breaks_off_raises_and_is_not_cached(
    cache: FakeExactCache, providers: Providers, chunks: int, came: str
) -> None:
    providers["local"].breaks_after = chunks
    outcomes: list[Outcome] = []
    gateway = controller(cache, providers, on_end=outcomes.append)
    with pytest.raises(UpstreamError, match="the connection broke"):
        await read(await gateway.stream(chat("hello")))
    await gateway.drain()
    (outcome,) = outcomes
    assert (outcome.finished, outcome.completion.body["choices"][0]["message"]["content"]) == (False, came)
    assert (cache.entries, providers["mid"].bodies) == ({}, [])


async def test_a_finished_stream_is_cached_and_serves_a_plain_request(
    cache: FakeExactCache, providers: Providers
) -> None:
    gateway = controller(cache, providers)
    await read(await gateway.stream(chat("hello", stream=True)))
    await gateway.drain()
    outcome = await gateway.handle(chat("hello"))
    assert (outcome.tier, outcome.completion) == ("cache", answer())


async def test_a_cached_answer_serves_a_stream(cache: FakeExactCache, providers: Providers) -> None:
    remember(cache, chat("hello"), answer("Hi."))
    outcome = await controller(cache, providers).stream(chat("hello", stream=True))
    assert isinstance(outcome, Outcome)
    assert (outcome.tier, outcome.completion) == ("cache", answer("Hi."))


async def test_a_client_that_goes_away_stops_the_upstream(cache: FakeExactCache, providers: Providers) -> None:
    outcomes: list[Outcome] = []
    gateway = controller(cache, providers, on_end=outcomes.append)
    streaming = await gateway.stream(chat("hello"))
    assert isinstance(streaming, Streaming)
    await anext(streaming.parts)
    await streaming.parts.aclose()
    await gateway.drain()
    assert (providers["local"].closed, [outcome.finished for outcome in outcomes], cache.entries) == (1, [False], {})


async def test_a_failed_stream_leaves_nothing_open(cache: FakeExactCache, providers: Providers) -> None:
    providers["local"].breaks_after = 0
    await read(await controller(cache, providers).stream(chat("hello")))
    assert (providers["local"].closed, providers["mid"].closed) == (1, 1)


# Accounting: 100 tokens in and 50 out, at 10 and 20 dollars per million for the baseline


@pytest.mark.parametrize(("score", "cost", "saved"), [(0.0, 0.0, 0.002), (0.5, 0.0002, 0.0018), (0.9, 0.002, 0.0)])
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_costs_its_models_price_and_saves_the_rest_of_the_baselines(
    cache: FakeExactCache, providers: Providers, score: float, cost: float, saved: float, streamed: bool
) -> None:
    outcomes: list[Outcome] = []
    gateway = controller(cache, providers, score=score, on_end=outcomes.append)
    await (read(await gateway.stream(chat())) if streamed else gateway.handle(chat()))
    (outcome,) = outcomes
    assert (outcome.cost_usd, outcome.saved_usd) == pytest.approx((cost, saved))


@pytest.mark.parametrize("streamed", [False, True])
async def test_prompt_tokens_that_the_provider_had_cached_have_their_own_price(
    cache: FakeExactCache, providers: Providers, streamed: bool
) -> None:
    tiers = CONFIG.model_dump(exclude_defaults=True)["tiers"]
    tiers[1]["targets"][0]["price"]["usd_per_1m_cached_input_tokens"] = 0.25
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 80}}
    providers["mid"].completion = Completion({**answer().body, "usage": usage}, "medium")
    outcomes: list[Outcome] = []
    config = GatewayConfig.model_validate({"tiers": tiers})
    gateway = controller(cache, providers, score=0.5, config=config, on_end=outcomes.append)
    await (read(await gateway.stream(chat())) if streamed else gateway.handle(chat()))
    assert outcomes[0].cost_usd == pytest.approx((20 * 1 + 80 * 0.25 + 50 * 2) / 1e6)


async def test_a_hit_costs_nothing_and_saves_the_whole_bill(cache: FakeExactCache, providers: Providers) -> None:
    remember(cache, chat("hello"), answer())
    outcome = await controller(cache, providers).handle(chat("hello"))
    assert (outcome.cost_usd, outcome.saved_usd) == pytest.approx((0.0, 0.002))


async def test_every_answer_is_reported_once_when_it_has_ended(cache: FakeExactCache, providers: Providers) -> None:
    outcomes: list[Outcome] = []
    gateway = controller(cache, providers, on_end=outcomes.append)
    streaming = await gateway.stream(chat("hello"))
    assert outcomes == []
    await read(streaming)
    await gateway.drain()
    hit = await gateway.handle(chat("hello"))
    assert [outcome.tier for outcome in outcomes] == ["local", "cache"]
    assert outcomes[1] is hit


async def test_latency_runs_from_the_request_to_the_answer_stage_by_stage(
    cache: FakeExactCache, providers: Providers
) -> None:
    ticks = count(10.0, 0.25)
    gateway = controller(cache, providers, clock=lambda: next(ticks))
    asked = await gateway.handle(chat("hello"))
    await gateway.drain()
    hit = await gateway.handle(chat("hello"))
    assert asked.stages == dict.fromkeys(("exact", "semantic", "route", "model"), 0.25)
    assert (asked.latency_s, hit.latency_s, hit.stages) == (1.0, 0.25, {"exact": 0.25})


async def test_a_streams_stages_tell_its_first_part_from_the_rest(cache: FakeExactCache, providers: Providers) -> None:
    outcomes: list[Outcome] = []
    ticks = count(10.0, 0.25)
    gateway = controller(cache, providers, on_end=outcomes.append, clock=lambda: next(ticks))
    await read(await gateway.stream(chat("hello", model="local")))
    await gateway.drain()
    assert outcomes[0].stages == dict.fromkeys(("exact", "semantic", "route", "model", "stream"), 0.25)
    assert outcomes[0].latency_s == sum(outcomes[0].stages.values())
