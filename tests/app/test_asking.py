"""One answer of the right form from tiers asked in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import openai
import pydantic
import pytest

from app.asking import Asker
from app.errors import (
    ContextLengthError,
    GatewayError,
    InvalidRequestError,
    UnavailableError,
    UnfitError,
    UpstreamError,
)
from app.schema import Completion, Outcome, Streaming
from tests.fakes import CONFIG, FakeExactCache, FakeProvider, GatedProvider, answer, chat, controller
from tests.serving import gateway
from tests.waiting import until

SCHEMA = {"type": "object", "required": ["city"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
GOOD, BAD, FENCED = '{"city": "Rome"}', '{"town": "Rome"}', '```json\n{"city": "Rome"}\n```'
Providers = dict[str, FakeProvider]


class Scripted(FakeProvider):
    """A FakeProvider whose answers come in turn; the last one again and again."""

    def __init__(self, model: str, *answers: str | GatewayError | Completion) -> None:
        super().__init__(model)
        self._answers = list(answers)

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        self.bodies.append(body)
        said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(said, GatewayError):
            raise said
        return said if isinstance(said, Completion) else answer(said, self.completion.target)


def providers(small: FakeProvider, medium: FakeProvider | None = None) -> Providers:
    return {"local": small, "mid": medium or Scripted("medium", GOOD), "top": Scripted("large", GOOD)}


async def ask(given: Providers, **fields: Any) -> Outcome:
    return await controller(None, given).handle(chat("Where?", response_format=WANTED, **fields))


def text_of(outcome: Outcome) -> str:
    return str(outcome.completion.body["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("answers", "fate", "asked", "tier"),
    [
        ((GOOD,), "valid", 1, "local"),
        ((FENCED,), "repaired", 1, "local"),
        ((BAD, GOOD), "repaired", 2, "local"),
        ((BAD, FENCED), "repaired", 2, "local"),
        ((BAD, BAD), "escalated", 2, "mid"),
        ((BAD, UpstreamError("down", "fake")), "escalated", 2, "mid"),
    ],
)
async def test_an_answer_of_the_wrong_form_is_repaired_once_and_then_asked_of_the_next_tier(
    answers: tuple[Any, ...], fate: str, asked: int, tier: str
) -> None:
    small = Scripted("small", *answers)
    outcome = await ask(providers(small))
    assert (outcome.schema, outcome.tier, len(small.bodies), text_of(outcome)) == (fate, tier, asked, GOOD)


async def test_a_repair_names_the_error_and_is_paid_for() -> None:
    medium = Scripted("medium", BAD, GOOD)
    outcome = await ask(providers(Scripted("small", GOOD), medium), model="mid")
    assert '"city" is a required property' in medium.bodies[1]["messages"][-1]["content"]
    assert outcome.cost_usd == pytest.approx(2 * (100 + 50 * 2) / 1e6)


async def test_where_no_tier_can_the_answer_is_given_and_marked() -> None:
    given = {name: Scripted(model, BAD) for name, model in (("local", "small"), ("mid", "medium"), ("top", "large"))}
    outcome = await ask(dict(given))
    assert (outcome.schema, outcome.tier, text_of(outcome)) == ("invalid", "top", BAD)
    assert outcome.cost_usd == pytest.approx(2 * (100 + 100 + 1000 + 1000) / 1e6)


async def test_where_the_stronger_tiers_fail_an_answer_of_the_wrong_form_is_better_than_none() -> None:
    down = Scripted("medium", UpstreamError("down", "fake"))
    given = {"local": Scripted("small", BAD), "mid": down, "top": Scripted("large", UpstreamError("down", "fake"))}
    outcome = await ask(dict(given))
    assert (outcome.schema, outcome.tier, text_of(outcome)) == ("invalid", "local", BAD)


@pytest.mark.parametrize("cut", [False, True])
async def test_answers_that_were_paid_for_and_not_given_are_said_by_the_failure(cut: bool) -> None:
    first: str | Completion = answer("{", "medium", finish_reason="length") if cut else BAD
    unfit = UnfitError("too long", None, None)
    given = providers(Scripted("small", unfit), Scripted("medium", first, BAD))
    given["top"] = Scripted("large", unfit)
    request = replace(chat("Where?", response_format=WANTED, max_tokens=2), raised_max_tokens=8 if cut else None)
    with pytest.raises(UnfitError) as error:
        await controller(None, given).handle(request)
    assert error.value.spent_usd == pytest.approx((3 if cut else 2) * (100 + 50 * 2) / 1e6)


async def test_an_answer_whose_repair_is_too_long_for_the_model_is_asked_of_the_next_tier() -> None:
    outcome = await ask(providers(Scripted("small", BAD, ContextLengthError("too long"))))
    assert (outcome.schema, outcome.tier, text_of(outcome)) == ("escalated", "mid", GOOD)


async def test_answers_that_were_paid_for_are_accounted_for_where_the_client_leaves_before_one_is_given() -> None:
    ended: list[Outcome] = []
    gated = GatedProvider("large")
    given = {"local": Scripted("small", UpstreamError("down", "fake")), "mid": Scripted("medium", BAD), "top": gated}
    gateway = controller(FakeExactCache(), given, on_end=ended.append)
    asked = asyncio.create_task(gateway.handle(chat("Where?", response_format=WANTED)))
    await until(lambda: gated.bodies)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await gateway.drain()
    (left,) = ended
    assert left.tier == "none"
    assert left.cost_usd == pytest.approx(2 * (100 + 50 * 2) / 1e6)


async def test_where_one_call_answers_many_only_the_request_that_made_it_has_spent() -> None:
    gated = GatedProvider("large")
    gated.failures = [UnfitError("too long", None, None)]
    given = {"local": Scripted("small", UpstreamError("down", "fake")), "mid": Scripted("medium", BAD), "top": gated}
    gateway = controller(FakeExactCache(), given)
    request = chat("Where?", response_format=WANTED)
    asked = [asyncio.create_task(gateway.handle(request)) for _ in range(2)]
    await until(lambda: gated.bodies)
    gated.gate.set()
    failures = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(failure) for failure in failures] == [UnfitError, UnfitError]
    spent = sorted(failure.spent_usd for failure in failures if isinstance(failure, GatewayError))
    assert spent == [0, pytest.approx(2 * (100 + 50 * 2) / 1e6)]


async def test_where_nobody_answers_it_is_unavailable() -> None:
    down = {name: Scripted(name, UpstreamError("down", "fake")) for name in ("local", "mid", "top")}
    with pytest.raises(UnavailableError, match="tried: local, mid, top"):
        await ask(dict(down))


@pytest.mark.parametrize("body", [{}, {"response_format": {"type": "text"}}])
async def test_free_text_has_no_form_to_check(body: dict[str, Any]) -> None:
    small = Scripted("small", FENCED)
    outcome = await controller(None, providers(small)).handle(chat("Where?", **body))
    assert (outcome.schema, text_of(outcome)) == (None, FENCED)


async def test_an_answer_that_a_profile_s_limit_cut_is_asked_for_once_more() -> None:
    small = Scripted("small", answer("Rome is", finish_reason="length"), "Rome is old.")
    request = replace(chat("Where?", max_tokens=2), raised_max_tokens=8)
    outcome = await controller(None, providers(small)).handle(request)
    assert (text_of(outcome), [body["max_tokens"] for body in small.bodies]) == ("Rome is old.", [2, 8])


@pytest.mark.parametrize(("window", "limit"), [(1000, 800), (500, 482), (100, 200)])
async def test_a_stream_has_the_raised_limit_from_the_start_as_far_as_the_context_goes(window: int, limit: int) -> None:
    small = FakeProvider("small")
    tiers = (CONFIG.tiers[0].model_copy(update={"context_tokens": window}),)
    request = replace(chat("Where?", max_tokens=200, stream=True), raised_max_tokens=800)
    (_, rest), _, _ = await Asker({"local": small}, {}, ()).opened(request, tiers)
    await rest.aclose()
    assert small.bodies[0]["max_tokens"] == limit


async def test_the_raised_limit_of_a_stream_keeps_no_prompt_from_a_tier_that_has_room_for_the_limit() -> None:
    small = FakeProvider("small")
    local = CONFIG.tiers[0].model_copy(update={"context_tokens": 500})
    config = CONFIG.model_copy(update={"tiers": (local, *CONFIG.tiers[1:])})
    request = replace(chat("word " * 200, max_tokens=100, stream=True), raised_max_tokens=400)
    streaming = await controller(None, providers(small), config=config).stream(request)
    assert isinstance(streaming, Streaming)
    await streaming.parts.aclose()
    assert (streaming.tier, small.bodies[0]["max_tokens"]) == ("local", 500 - 201 - 16)


@pytest.mark.parametrize(
    "error", [UpstreamError("down", "fake"), InvalidRequestError("max_tokens is too large"), ContextLengthError("long")]
)
async def test_where_the_raised_limit_is_refused_the_answer_that_was_cut_is_given(error: GatewayError) -> None:
    small = Scripted("small", answer("Rome is", finish_reason="length"), error)
    request = replace(chat("Where?", max_tokens=2), raised_max_tokens=8)
    outcome = await controller(None, providers(small)).handle(request)
    assert (text_of(outcome), outcome.tier, len(small.bodies)) == ("Rome is", "local", 2)


async def test_where_a_repair_is_refused_the_next_tier_is_asked() -> None:
    outcome = await ask(providers(Scripted("small", BAD, ContextLengthError("too long"))))
    assert (outcome.schema, outcome.tier, text_of(outcome)) == ("escalated", "mid", GOOD)


async def test_json_that_runs_past_a_profile_s_raised_limit_is_asked_of_the_next_tier() -> None:
    small = Scripted("small", answer('{"city": "Ro', finish_reason="length"))
    request = replace(chat("Where?", max_tokens=2, response_format=WANTED), raised_max_tokens=8)
    outcome = await controller(None, providers(small)).handle(request)
    assert (outcome.schema, outcome.tier, text_of(outcome)) == ("escalated", "mid", GOOD)
    assert [body["max_tokens"] for body in small.bodies] == [2, 8, 8]
    assert "longer than 8 tokens" in small.bodies[2]["messages"][-1]["content"]


async def test_a_limit_of_the_clients_own_is_kept() -> None:
    small = Scripted("small", answer("Rome is", finish_reason="length"))
    outcome = await controller(None, providers(small)).handle(chat("Where?", max_tokens=2))
    assert (text_of(outcome), len(small.bodies)) == ("Rome is", 1)


CUT = answer('{"city": "Ro', finish_reason="length")
REFUSED = answer(None, refusal="I cannot say.")
CALLED = answer(None, finish_reason="tool_calls", tool_calls=[{"id": "call_1"}])


@pytest.mark.parametrize("other", [CUT, REFUSED, CALLED], ids=["cut", "refused", "called"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_no_whole_text_is_given_as_it_is_and_not_called_valid(other: Completion, stream: bool) -> None:
    ended: list[Outcome] = []
    small = FakeProvider("small", other)
    asked = controller(None, providers(small), on_end=ended.append)
    request = chat("Where?", max_tokens=2, response_format=WANTED, stream=stream)
    if stream:
        streaming = await asked.stream(request)
        assert isinstance(streaming, Streaming)
        assert [part async for part in streaming.parts]
    else:
        await asked.handle(request)
    assert (ended[0].schema, ended[0].tier, len(small.bodies)) == (None, "local", 1)


@pytest.mark.parametrize(("text", "valid"), [(GOOD, True), (BAD, False)])
async def test_an_answer_of_the_wrong_form_is_given_to_who_asked_and_never_stored(text: str, valid: bool) -> None:
    cache = FakeExactCache()
    gateway = controller(cache, {name: FakeProvider("small", answer(text)) for name in ("local", "mid", "top")})
    assert text_of(await gateway.handle(chat("Where?", response_format=WANTED))) == text
    await gateway.drain()
    assert len(cache.entries) == int(valid)


@pytest.mark.parametrize(("text", "valid"), [(GOOD, True), (BAD, False)])
async def test_a_stream_is_checked_at_its_end_and_stored_only_if_it_is_valid(text: str, valid: bool) -> None:
    ended: list[Outcome] = []
    cache = FakeExactCache()
    given = {name: FakeProvider("small", answer(text)) for name in ("local", "mid", "top")}
    asked = controller(cache, given, on_end=ended.append)
    streaming = await asked.stream(chat("Where?", response_format=WANTED, stream=True))
    assert isinstance(streaming, Streaming)
    if valid:
        assert [part async for part in streaming.parts]
    else:
        with pytest.raises(UpstreamError, match='cannot be used: "city" is a required property'):
            assert [part async for part in streaming.parts]
    await asked.drain()
    assert (ended[0].schema, len(cache.entries)) == ("valid" if valid else "invalid", int(valid))


async def test_the_official_client_parses_an_answer_of_a_pydantic_model_repaired_or_not() -> None:
    class Place(pydantic.BaseModel):
        city: str

    small = Scripted("small", GOOD, BAD, GOOD)
    async with gateway(None, providers(small)) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        for fate in ("valid", "repaired"):
            raw = await client.chat.completions.with_raw_response.parse(
                model="auto", messages=[{"role": "user", "content": "Where?"}], response_format=Place
            )
            parsed = raw.parse().choices[0].message.parsed
            assert (parsed, raw.headers["x-tierwise-schema"]) == (Place(city="Rome"), fate)
    assert small.bodies[0]["response_format"]["json_schema"]["strict"] is True
