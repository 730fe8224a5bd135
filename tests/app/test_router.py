"""The policy around the score, along the whole path of a request: tenants, conversations, shares, cascades, checks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from app.config import GatewayConfig
from app.controller import TrafficController
from app.errors import CacheUnavailableError, ModelNotFoundError, UnavailableError, UpstreamError
from app.schema import CacheEntry, ChatRequest, Outcome, Streaming
from tests.fakes import (
    CONFIG,
    FakeClassifier,
    FakeConversations,
    FakeExactCache,
    FakeProvider,
    FakeQuality,
    FakeSemanticCache,
    GatedProvider,
    answer,
    chat,
    controller,
)
from tests.waiting import until

Providers = dict[str, FakeProvider]


@pytest.fixture
def providers() -> Providers:
    models = {"local": "small", "mid": "medium", "top": "large"}
    return {name: FakeProvider(model, answer(f"{name} says so.", model)) for name, model in models.items()}


def routing(**fields: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({**CONFIG.model_dump(), "routing": fields})


def then(request: ChatRequest, outcome: Outcome, text: str) -> ChatRequest:
    """Make the next turn of a conversation."""
    said = outcome.completion.body["choices"][0]["message"]
    return chat(messages=[*request.body["messages"], said, {"role": "user", "content": text}])


async def talk(gateway: TrafficController, classifier: FakeClassifier, *scores: float) -> list[Outcome]:
    """Hold a conversation whose turns have these scores."""
    request, outcomes = chat("turn 0"), list[Outcome]()
    for i, score in enumerate(scores):
        classifier.value = score
        outcomes.append(await gateway.handle(request))
        await gateway.drain()
        request = then(request, outcomes[-1], f"turn {i + 1}")
    return outcomes


async def test_within_a_conversation_the_tier_never_drops(providers: Providers) -> None:
    classifier = FakeClassifier()
    gateway = controller(None, providers, classifier=classifier, conversations=FakeConversations())
    outcomes = await talk(gateway, classifier, 0.1, 0.5, 0.1, 0.9, 0.5)
    assert [outcome.tier for outcome in outcomes] == ["local", "mid", "mid", "top", "top"]
    assert [outcome.route for outcome in outcomes] == ["score", "score", "conversation", "score", "conversation"]


async def test_a_store_that_is_down_costs_the_memory_of_the_conversation_alone(providers: Providers) -> None:
    classifier, conversations = FakeClassifier(), FakeConversations()
    conversations.error = CacheUnavailableError("down")
    gateway = controller(None, providers, classifier=classifier, conversations=conversations)
    assert [outcome.tier for outcome in await talk(gateway, classifier, 0.9, 0.1)] == ["top", "local"]


async def test_a_hit_by_meaning_counts_as_a_turn_of_the_tier_that_made_it(providers: Providers) -> None:
    stored = CacheEntry("turn nought", answer("top says so.", "large"), "top", "acme")
    classifier, semantic = FakeClassifier(0.1), FakeSemanticCache(stored)
    gateway = controller(
        FakeExactCache(), providers, classifier=classifier, semantic=semantic, conversations=FakeConversations()
    )
    first = chat("turn 0")
    hit = await gateway.handle(first)
    await gateway.drain()
    semantic.entry = None
    assert (await gateway.handle(then(first, hit, "turn 1"))).tier == "top"


async def test_an_exact_hit_renews_what_is_known_of_its_conversation(providers: Providers) -> None:
    classifier, conversations = FakeClassifier(0.9), FakeConversations()
    gateway = controller(FakeExactCache(), providers, classifier=classifier, conversations=conversations)
    first = chat("turn 0")
    await gateway.handle(first)
    await gateway.drain()
    conversations.reached.clear()  # its time is over, the cache's is not
    hit = await gateway.handle(first)
    await gateway.drain()
    classifier.value = 0.1
    assert (hit.cache.reason, (await gateway.handle(then(first, hit, "turn 1"))).tier) == ("exact", "top")


async def test_a_conversation_of_the_same_words_does_not_lower_another(providers: Providers) -> None:
    for provider in providers.values():
        provider.completion = answer("You are welcome.")
    classifier = FakeClassifier()
    gateway = controller(None, providers, classifier=classifier, conversations=FakeConversations())
    thanks = chat("Thanks!")
    for classifier.value in (0.9, 0.1):
        outcome = await gateway.handle(thanks)
        await gateway.drain()
    assert (await gateway.handle(then(thanks, outcome, "One more thing."))).tier == "top"


async def test_tenants_have_floors_ceilings_and_cut_points_of_their_own(providers: Providers) -> None:
    tenants = {"careful": {"floor": "mid"}, "thrifty": {"ceiling": "mid"}, "own": {"cuts": [0.0, 0.05]}}
    gateway = controller(None, providers, score=0.1, config=routing(tenants=tenants))
    asked = {tenant: await gateway.handle(chat(tenant=tenant)) for tenant in ("careful", "thrifty", "own", "acme")}
    assert {tenant: outcome.tier for tenant, outcome in asked.items()} == {
        "careful": "mid",
        "thrifty": "local",
        "own": "top",
        "acme": "local",
    }


async def test_a_tier_above_the_ceiling_does_not_exist_for_the_tenant(providers: Providers) -> None:
    gateway = controller(None, providers, config=routing(tenants={"acme": {"ceiling": "mid"}}))
    with pytest.raises(ModelNotFoundError, match="one of: local, mid, small, medium"):
        await gateway.handle(chat(model="large"))
    assert (await gateway.handle(chat(model="large", tenant="other"))).tier == "top"


async def test_a_ceiling_holds_when_the_tiers_below_it_fail(providers: Providers) -> None:
    providers["mid"].error = UpstreamError("down", "fake")
    gateway = controller(None, providers, score=0.5, config=routing(tenants={"acme": {"ceiling": "mid"}}))
    with pytest.raises(Exception, match="tried: mid"):
        await gateway.handle(chat())
    assert providers["top"].bodies == []


async def test_the_best_tier_gets_its_share_of_what_is_routed(providers: Providers) -> None:
    classifier = FakeClassifier()
    gateway = controller(None, providers, classifier=classifier, config=routing(top_share=0.1))
    outcomes = []
    for i in range(400):
        classifier.value = (i * 37 % 100) / 100
        outcomes.append(await gateway.handle(chat(f"{i}")))
    assert sum(outcome.tier == "top" for outcome in outcomes[200:]) / 200 == pytest.approx(0.1, abs=0.02)
    assert {outcome.route for outcome in outcomes} == {"score", "share"}


@pytest.mark.parametrize("bounds", [{"ceiling": "mid"}, {"cuts": [0.3, 0.7]}])
async def test_requests_that_never_reach_the_best_tier_use_up_none_of_its_share(
    providers: Providers, bounds: dict[str, Any]
) -> None:
    classifier = FakeClassifier()
    config = routing(top_share=0.1, tenants={"apart": bounds})
    gateway = controller(None, providers, classifier=classifier, config=config)
    outcomes = []
    for i in range(600):
        classifier.value = (i * 37 % 100) / 100
        outcomes.append(await gateway.handle(chat(f"{i}", tenant="acme")))
        classifier.value = 0.99
        await gateway.handle(chat(f"{i}", tenant="apart"))
    assert sum(outcome.tier == "top" for outcome in outcomes[300:]) / 300 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    "bounds",
    [{"ceiling": "mid"}, {"floor": "mid"}, {"cuts": [0.9, 0.95]}],
    ids=["ceiling", "floor", "cuts of its own"],
)
async def test_what_a_tenants_bounds_decided_moves_nobodys_cut_points(
    providers: Providers, bounds: dict[str, Any]
) -> None:
    quality = FakeQuality()
    config = routing(quality={"share": 1}, tenants={"apart": bounds})
    for score in (0.1, 0.5, 0.8):
        gateway = controller(None, providers, score=score, quality=quality, config=config)
        outcome = await gateway.handle(chat(tenant="apart"))
        await gateway.drain()
        decided = outcome.route in ("score", "share", "quality") and "cuts" not in bounds
        assert quality.drawn == ([outcome.tier != "top"] if decided else [])
        quality.drawn.clear()


async def test_checks_that_found_bad_answers_send_more_requests_up(providers: Providers) -> None:
    quality = FakeQuality()
    gateway = controller(None, providers, score=0.29, quality=quality)
    assert (await gateway.handle(chat())).tier == "local"
    quality.steps = {"local": 1}
    outcome = await gateway.handle(chat())
    assert (outcome.tier, outcome.route) == ("mid", "quality")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_share_of_the_requests_routed_down_is_answered_by_the_best_tier_too(
    providers: Providers, streamed: bool
) -> None:
    quality = FakeQuality()
    config = routing(quality={"share": 1, "judge": "top"})
    gateway = controller(None, providers, score=0.1, quality=quality, config=config)
    providers["top"].completion = answer("first", "large")  # as the judge's word it is one for the place
    if streamed:
        streaming = await gateway.stream(chat("Why?", stream=True))
        assert isinstance(streaming, Streaming)
        assert [part async for part in streaming.parts]
    else:
        await gateway.handle(chat("Why?"))
    await gateway.drain()
    assert [body["model"] for body in providers["top"].bodies] == ["top", "top", "top"]
    assert not any(body.get("stream") for body in providers["top"].bodies)
    assert (quality.drawn, quality.added) == ([True], [])
    assert quality.spent_usd > 0


async def test_a_pinned_request_is_not_checked(providers: Providers) -> None:
    quality = FakeQuality()
    gateway = controller(None, providers, quality=quality, config=routing(quality={"share": 1}))
    await gateway.handle(chat(model="local"))
    await gateway.drain()
    assert (quality.drawn, providers["top"].bodies) == ([], [])


@pytest.mark.parametrize("streamed", [False, True])
async def test_near_a_cut_point_a_cheap_answer_that_passes_is_kept(providers: Providers, streamed: bool) -> None:
    ended: list[Outcome] = []
    config = routing(cascade={"enabled": True})
    gateway = controller(None, providers, score=0.75, config=config, on_end=ended.append)
    outcome = await (gateway.stream(chat(stream=True)) if streamed else gateway.handle(chat()))
    assert isinstance(outcome, Outcome)
    assert (outcome.tier, outcome.cascade, outcome.attempts) == ("mid", "kept", 1)
    assert outcome.cascade_saved_usd == pytest.approx((100 * 10 + 50 * 20 - 100 - 50 * 2) / 1e6)
    assert (ended, providers["top"].bodies) == ([outcome], [])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cheap_answer_that_does_not_pass_is_paid_for_and_the_dearer_tier_answers(
    providers: Providers, streamed: bool
) -> None:
    ended: list[Outcome] = []
    providers["mid"].completion = answer("I'm sorry, but I can't help with that.", "medium")
    config = routing(cascade={"tenants": ["acme"]})
    gateway = controller(None, providers, score=0.75, config=config, on_end=ended.append)
    if streamed:
        streaming = await gateway.stream(chat(stream=True))
        assert isinstance(streaming, Streaming)
        assert (streaming.cascade, streaming.attempts) == ("refusal", 2)
        assert [part async for part in streaming.parts]
    else:
        await gateway.handle(chat())
    (outcome,) = ended
    assert (outcome.tier, outcome.cascade, outcome.attempts) == ("top", "refusal", 2)
    assert outcome.cascade_saved_usd == pytest.approx(-(100 + 50 * 2) / 1e6)
    assert outcome.cost_usd == pytest.approx((100 * 10 + 50 * 20 + 100 + 50 * 2) / 1e6)


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_cheap_answer_cost_is_said_by_the_failure_of_the_dearer_tier(
    providers: Providers, streamed: bool
) -> None:
    ended: list[Outcome] = []
    providers["mid"].completion = answer("I'm sorry, but I can't help with that.", "medium")
    providers["top"].error = UpstreamError("down", "fake")
    config = routing(cascade={"enabled": True})
    gateway = controller(FakeExactCache(), providers, score=0.75, config=config, on_end=ended.append)
    with pytest.raises(UnavailableError) as error:
        await (gateway.stream(chat(stream=True)) if streamed else gateway.handle(chat()))
    assert error.value.spent_usd == pytest.approx((100 + 50 * 2) / 1e6)
    assert ended == []


async def test_a_cheap_answer_was_tried_in_vain_where_the_client_leaves_before_the_dearer_tier_s(
    providers: Providers,
) -> None:
    ended: list[Outcome] = []
    providers["mid"].completion = answer("I'm sorry, but I can't help with that.", "medium")
    providers["top"] = top = GatedProvider("large")
    gateway = controller(None, providers, score=0.75, config=routing(cascade={"enabled": True}), on_end=ended.append)
    asked = asyncio.create_task(gateway.handle(chat()))
    await until(lambda: top.bodies)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    (left,) = ended
    assert left.cost_usd == -left.cascade_saved_usd == pytest.approx((100 + 50 * 2) / 1e6)


async def test_a_cheaper_tier_that_fails_costs_nothing_but_time(providers: Providers) -> None:
    providers["mid"].error = UpstreamError("down", "fake")
    gateway = controller(None, providers, score=0.75, config=routing(cascade={"enabled": True}))
    outcome = await gateway.handle(chat())
    assert (outcome.tier, outcome.cascade, outcome.cascade_saved_usd) == ("top", "failed", 0)


async def test_a_local_tier_is_asked_how_sure_it_is_and_the_client_sees_only_what_it_asked_for(
    providers: Providers,
) -> None:
    tiers = [{"name": "local", "max_score": 0.3, "llm": {"model": "a/small"}}, *CONFIG.model_dump()["tiers"][1:]]
    config = GatewayConfig.model_validate({"tiers": tiers, "routing": {"cascade": {"enabled": True}}})
    for logprob, tier in ((-0.1, "local"), (-1.0, "mid")):
        completion = answer("Paris.")
        completion.body["choices"][0]["logprobs"] = {"content": [{"token": "Paris", "logprob": logprob}]}
        providers["local"].completion = completion
        outcome = await controller(None, providers, score=0.35, config=config).handle(chat())
        assert (outcome.tier, providers["local"].bodies[-1]["logprobs"]) == (tier, True)
        assert "logprobs" not in outcome.completion.body["choices"][0]


async def test_without_a_cascade_the_cheaper_tier_is_not_asked(providers: Providers) -> None:
    gateway = controller(None, providers, score=0.75, config=routing(cascade={"tenants": ["other"]}))
    assert (await gateway.handle(chat())).cascade is None
    assert providers["mid"].bodies == []


async def test_what_a_profile_keeps_from_the_best_tier_is_not_compared_with_it(providers: Providers) -> None:
    quality = FakeQuality()
    config = routing(quality={"share": 1, "judge": "local"})
    gateway = controller(None, providers, score=0.1, quality=quality, config=config)
    outcome = await gateway.handle(replace(chat("secret"), tiers=("local", "mid")))
    await gateway.drain()
    assert (outcome.tier, quality.drawn, providers["top"].bodies) == ("local", [], [])


async def test_while_a_tier_starts_its_requests_go_up_and_the_client_sees_why(providers: Providers) -> None:
    gateway = controller(None, providers, score=0.1, wake=lambda tier: tier != "local")
    outcome = await gateway.handle(chat("hello"))
    assert (outcome.tier, outcome.route, outcome.attempts) == ("mid", "starting", 1)


async def test_a_tier_that_starts_is_waited_for_where_no_other_answers(providers: Providers) -> None:
    providers["mid"].error = providers["top"].error = UpstreamError("down", "openai")
    gateway = controller(None, providers, score=0.1, wake=lambda tier: tier != "local")
    assert (await gateway.handle(chat("hello"))).tier == "local"
    assert (await gateway.handle(chat("hello", model="local"))).route == "pinned"
