"""Answers in the shape that was asked for: schemas, profiles, compact prompts, counted tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.config import GatewayConfig
from app.errors import InvalidRequestError
from app.schema import ChatRequest
from app.shaping import ProfileConfig, Shaper
from app.shaping.compact import compacted
from app.shaping.schema import fault, repair, text_fault, unfenced
from app.shaping.tokens import count_tokens
from tests.fakes import CONFIG, answer, chat

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": CITY}}


@pytest.mark.parametrize(
    ("wanted", "text", "found"),
    [
        ({}, "Rome", None),
        ({"type": "text"}, "Rome", None),
        ({"type": "json_object"}, '{"a": 1}', None),
        ({"type": "json_object"}, "[1]", "not a JSON object"),
        ({"type": "json_object"}, '{"a": ', "not JSON"),
        (WANTED, '{"city": "Rome"}', None),
        (WANTED, '{"city": 7}', "at city"),
        (WANTED, '{"town": "Rome"}', '"city" is a required property (at the whole)'),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}, '{"a": 1}', None),
    ],
)
def test_what_is_wrong_with_a_text_that_should_be_json_is_named(
    wanted: dict[str, Any], text: str, found: str | None
) -> None:
    said = text_fault(wanted, text)
    assert said is None if found is None else said is not None and found in said


def test_what_the_client_asked_for_itself_is_no_fault() -> None:
    body = {"response_format": WANTED}
    call = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    for completion in (
        answer('{"ci', finish_reason="length"),
        answer(None, refusal="I cannot do that."),
        answer(None, tool_calls=call, finish_reason="tool_calls"),
    ):
        assert fault(body, completion.body) is None
    assert fault(body, answer("Rome").body) is not None


def test_fences_around_an_answer_are_taken_off_and_those_within_it_stay() -> None:
    fenced, within = answer('```json\n{"city": "Rome"}\n```').body, answer("See:\n```json\n{}\n```").body
    assert (unfenced(fenced), unfenced(within)) == (True, False)
    assert fenced["choices"][0]["message"]["content"] == '{"city": "Rome"}'


def test_a_repair_shows_the_answer_and_what_is_wrong_with_it() -> None:
    body = {"model": "mid", "messages": [{"role": "user", "content": "Where?"}]}
    again = repair(body, answer("Rome").body, "it is not JSON")
    assert [message["role"] for message in again["messages"]] == ["user", "assistant", "user"]
    assert "it is not JSON" in again["messages"][-1]["content"]
    assert len(body["messages"]) == 1


PROFILES = {
    "triage": ProfileConfig(
        models=("triage",),
        json_schema=CITY,
        max_tokens=20,
        stop=("\n",),
        temperature=0,
        instruction="Answer with the city alone.",
        tiers=("local",),
    ),
    "invoices": ProfileConfig(tenants=("acme",), system="(?i)invoice", max_tokens=50),
    "globex": ProfileConfig(tenants=("globex",), reasoning_effort="low"),
    "tidy": ProfileConfig(compact=True),
}
SHAPER = Shaper(PROFILES, "auto")


def shaped(named: str | None = None, **fields: Any) -> ChatRequest:
    return SHAPER.shaped(chat("Where is it?", **fields), named)


def test_an_alias_is_routed_in_the_shape_of_its_profile() -> None:
    request = shaped(model="triage")
    body = request.body
    assert (request.profile, request.tiers, request.raised_max_tokens) == ("triage", ("local",), 80)
    assert (body["model"], body["max_tokens"], body["stop"], body["temperature"]) == ("auto", 20, ["\n"], 0)
    assert body["response_format"]["json_schema"]["schema"] == {**CITY, "additionalProperties": False}
    assert body["messages"][0] == {"role": "system", "content": "Answer with the city alone."}


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**OBJECT, "additionalProperties": False}
VALUES = {"a": {"enum": [{"type": "object"}]}}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (OBJECT, CLOSED),
        (CLOSED, CLOSED),
        (
            {**OBJECT, "properties": {"a": {"type": "array", "items": OBJECT}}},
            {**CLOSED, "properties": {"a": {"type": "array", "items": CLOSED}}},
        ),
        (
            {**OBJECT, "properties": {"a": {"anyOf": [OBJECT, {"type": "null"}]}}},
            {**CLOSED, "properties": {"a": {"anyOf": [CLOSED, {"type": "null"}]}}},
        ),
        ({**OBJECT, "required": []}, None),
        ({**OBJECT, "additionalProperties": True}, None),
        ({**OBJECT, "additionalProperties": {"type": "string"}}, None),
        ({"type": "object"}, None),
        ({"type": "array", "items": OBJECT}, None),
        ({**OBJECT, "properties": {"a": {"oneOf": [{"type": "string"}]}}}, None),
        ({**OBJECT, "properties": {"a": True}}, None),
        ({**OBJECT, "properties": VALUES}, {**CLOSED, "properties": VALUES}),
    ],
)
def test_a_schema_is_strict_where_that_asks_for_nothing_else(
    schema: dict[str, Any], strict: dict[str, Any] | None
) -> None:
    found = ProfileConfig(json_schema=schema).fields()["response_format"]
    wanted = {"schema": schema} if strict is None else {"schema": strict, "strict": True}
    assert found == {"type": "json_schema", "json_schema": {"name": "answer", **wanted}}


def test_a_request_that_says_more_is_obeyed() -> None:
    body = shaped(model="triage", max_tokens=7, temperature=0.5, stop=["x"], response_format={"type": "text"}).body
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (7, 0.5, ["x"])
    assert body["response_format"] == {"type": "text"}
    assert shaped(model="triage", max_completion_tokens=7).raised_max_tokens is None


def test_null_is_nothing_said() -> None:
    assert shaped(model="triage", temperature=None, max_tokens=None).body["max_tokens"] == 20


def test_a_stream_is_shaped_as_a_whole_answer_is() -> None:
    request = shaped(model="triage", stream=True)
    assert (request.body["max_tokens"], request.raised_max_tokens) == (20, 80)


@pytest.mark.parametrize(
    ("system", "tenant", "named", "profile"),
    [
        ("You read Invoices.", "acme", None, "invoices"),
        ("You read Invoices.", "initech", None, None),
        ("You read letters.", "acme", None, None),
        ("You read letters.", "globex", None, "globex"),
        ("You read Invoices.", "acme", "tidy", "tidy"),
    ],
)
def test_the_tenant_and_the_system_prompt_choose_unless_a_profile_is_named(
    system: str, tenant: str, named: str | None, profile: str | None
) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Where is it?"}]
    assert shaped(named, messages=messages, tenant=tenant).profile == profile


def test_an_instruction_is_added_behind_the_system_prompt() -> None:
    messages = [{"role": "system", "content": "Be kind.\n"}, {"role": "user", "content": "Where is it?"}]
    assert shaped("triage", messages=messages).body["messages"][0]["content"] == (
        "Be kind.\n\nAnswer with the city alone."
    )


def test_an_unknown_profile_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidRequestError, match=r"no profile `x`.*triage, invoices, globex, tidy"):
        shaped("x")
    with pytest.raises(InvalidRequestError, match="There are: none"):
        Shaper({}, "auto").shaped(chat(), "x")


def test_without_a_profile_a_request_stays_as_it_is() -> None:
    request = chat()
    assert Shaper({}, "auto").shaped(request, None) is request
    assert SHAPER.shaped(request, None) is request


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tiers": ["best"]}, "profiles.p.tiers: there is no tier `best`"),
        ({"models": ["mid"]}, "profiles.p.models: `mid` is a model, a tier or another profile's already"),
        ({"system": "("}, "is no regular expression"),
    ],
)
def test_a_profile_that_cannot_be_stops_the_start(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GatewayConfig.model_validate({**CONFIG.model_dump(), "profiles": {"p": fields}})


LONG = "This notice is part of every message. " * 8


def test_blank_space_and_repeated_boilerplate_go_and_code_stays() -> None:
    code = "```py\nif  x:\n\n\n    y   =  1\n```"
    messages = [
        {"role": "system", "content": f"Be   brief.  \n\n\n\n{LONG.strip()}"},
        {"role": "user", "content": f"Look:\n\n\n{code}\n\n{LONG.strip()}\n\nWhy?"},
        {"role": "assistant", "content": "a   b"},
    ]
    system, user, assistant = compacted(messages)
    assert system["content"] == f"Be brief.\n\n{LONG.strip()}"
    assert user["content"] == f"Look:\n\n{code}\n\nWhy?"
    assert assistant["content"] == "a   b"


def test_a_longer_conversation_begins_with_the_same_messages() -> None:
    turns = [{"role": "user", "content": f"{LONG}\n\n turn  {i}"} for i in range(4)]
    assert compacted(turns)[:2] == compacted(turns[:2])


def test_pictures_are_left_alone() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    (message,) = compacted([{"role": "user", "content": [{"type": "text", "text": "a   b"}, picture]}])
    assert message["content"] == [{"type": "text", "text": "a b"}, picture]


@given(st.text())
def test_no_word_is_lost(text: str) -> None:
    (message,) = compacted([{"role": "user", "content": text}])
    if len(text) < 200:
        assert message["content"].split() == text.split()


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4o", 6), ("gpt-3.5-turbo", 6), ("a model nobody knows", 6)])
def test_tokens_are_counted_as_the_model_counts_them(model: str, tokens: int) -> None:
    assert count_tokens("What is the capital France?", model) == tokens


def test_other_writing_has_more_tokens_than_letters_would_say() -> None:
    assert (
        count_tokens("你好，世界！今天天气怎么样？", "gpt-3.5-turbo")
        > count_tokens("你好，世界！今天天气怎么样？", "gpt-4o")
        > 4
    )
