"""Anthropic's Messages: the translation, and the official client over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects import MessagesDialect
from app.errors import InvalidRequestError
from app.tenants import KeyFileTenants, key_hash
from tests.fakes import FakeExactCache, FakeProvider, answer
from tests.serving import gateway

Providers = dict[str, FakeProvider]
TOOL: Any = {"name": "weather", "description": "Weather.", "input_schema": {"type": "object", "properties": {}}}
FUNCTION = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather.", "parameters": TOOL["input_schema"]},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
HI: list[Any] = [{"role": "user", "content": "hi"}]


def dialect(**fields: Any) -> MessagesDialect:
    body = {"model": "auto", "max_tokens": 9, "messages": HI, **fields}
    return MessagesDialect(json.dumps({name: value for name, value in body.items() if value is not None}).encode())


def chat(**fields: Any) -> dict[str, Any]:
    return dialect(**fields).body


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


# The request


def test_a_request_is_a_chat_completions() -> None:
    assert chat(
        system="Be brief.",
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        metadata={"user_id": "u1"},
        stream=True,
        thinking={"type": "disabled"},
        service_tier="auto",
    ) == {
        "model": "auto",
        "max_completion_tokens": 9,
        "messages": [{"role": "system", "content": "Be brief."}, *HI],
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "u1",
        "stream": True,
    }


def test_blocks_are_parts_and_one_text_is_a_string() -> None:
    base64 = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    images = [{"type": "image", "source": base64}, {"type": "image", "source": {"type": "url", "url": "https://x/y"}}]
    text = {"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}}
    alone, mixed = chat(
        messages=[{"role": "user", "content": [text]}, {"role": "user", "content": [*images, text]}], system=[]
    )["messages"]
    assert alone == {"role": "user", "content": "What is it?"}
    assert mixed["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y"}},
        {"type": "text", "text": "What is it?"},
    ]


def test_uses_of_tools_are_calls_and_their_results_messages_of_their_own() -> None:
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Zürich"}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}]}
    turns = [
        *HI,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "And tomorrow?"}]},
    ]
    function = {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert chat(messages=turns, tools=[TOOL])["messages"] == [
        *HI,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "user", "content": "And tomorrow?"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": False},
        ),
    ],
)
def test_tools_are_functions(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    body = chat(tools=[TOOL], tool_choice=choice)
    assert body["tools"] == [FUNCTION]
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == expected


def test_a_format_is_a_response_format() -> None:
    schema = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    body = chat(output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}})
    schema = {"name": "answer", "schema": schema, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert body["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("fields", "param", "advice"),
    [
        ({"max_tokens": None}, "max_tokens", "missing"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"role": "user", "content": []}]}, "messages", "add a text"),
        ({"top_k": 5}, "top_k", "Use `top_p`"),
        ({"invented_tomorrow": 1}, "invented_tomorrow", "Leave it out"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.type", "Leave it out"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type", "tools of your own"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice", "`name`"),
        ({"messages": [*HI, {"role": "assistant", "content": "The answer is"}]}, "messages", "turn of the user"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "messages[0].content[0].type",
            "images",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "n", "input": {}}]}]},
            "messages[0].content[0]",
            "no such block",
        ),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(fields: dict[str, Any], param: str, advice: str) -> None:
    with pytest.raises(InvalidRequestError, match=advice) as caught:
        dialect(**fields)
    assert caught.value.param == param


def test_what_is_off_is_not_refused() -> None:
    assert chat(container=None, mcp_servers=[], speed=None) == chat()


# The answer


@pytest.mark.parametrize(
    ("choice", "stop_reason"),
    [
        ({}, "end_turn"),
        ({"finish_reason": "length"}, "max_tokens"),
        ({"finish_reason": "content_filter"}, "refusal"),
        ({"text": None, "refusal": "I will not."}, "refusal"),
        ({"tool_calls": [CALL], "finish_reason": "tool_calls"}, "tool_use"),
        ({"tool_calls": [CALL]}, "tool_use"),  # OpenAI's own word for a call that was forced is `stop`
    ],
)
def test_the_reason_of_the_end_is_anthropics(choice: dict[str, Any], stop_reason: str) -> None:
    assert dialect().answer(answer(**choice).body)["stop_reason"] == stop_reason


def test_a_stop_sequence_is_named_where_the_provider_names_it() -> None:
    body = answer().body
    body["choices"][0]["stop_reason"] = "END"
    assert dialect(stop_sequences=["END"]).answer(body)["stop_sequence"] == "END"
    assert dialect(stop_sequences=["STOP"]).answer(body)["stop_reason"] == "end_turn"


def test_input_tokens_are_those_that_were_not_cached() -> None:
    body = answer().body
    body["usage"] = {**body["usage"], "prompt_tokens_details": {"cached_tokens": 60}}
    usage = dialect().answer(body)["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (40, 60, 50)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ('{"a": ', {"malformed_arguments": '{"a": '}),
        ("3", {"malformed_arguments": "3"}),
    ],
)
def test_the_input_of_a_tool_is_always_an_object(arguments: str, expected: dict[str, Any]) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    assert dialect().answer(answer(None, tool_calls=[call]).body)["content"][0]["input"] == expected


def test_calls_that_come_in_pieces_are_blocks_of_their_own() -> None:
    def piece(index: int, arguments: str, **first: Any) -> dict[str, Any]:
        name = {"name": "weather"} if first else {}
        return chunk(tool_calls=[{"index": index, **first, "function": {**name, "arguments": arguments}}])

    translated = dialect(stream=True)
    chunks = [chunk(role="assistant", content="Let me see."), piece(0, "", id="a"), piece(0, '{"x"'), piece(0, ": 1}")]
    chunks += [piece(1, "", id="b"), piece(1, "{}")]
    events = [*translated.events(chunks), *translated.end()]
    assert [(event["type"], event.get("index")) for event in events] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert [event["content_block"].get("id") for event in events if "content_block" in event] == [None, "a", "b"]


@given(st.text(), st.text(), st.lists(st.text(min_size=1), min_size=1))
def test_every_text_survives_whole_and_streamed(system: str, question: str, pieces: list[str]) -> None:
    translated = dialect(system=system, messages=[{"role": "user", "content": [{"type": "text", "text": question}]}])
    texts = [message["content"] for message in translated.body["messages"]]
    assert texts == ([system, question] if system else [question])
    whole = "".join(pieces)
    assert translated.answer(answer(whole).body)["content"] == [{"type": "text", "text": whole}]
    events = [*translated.events(chunk(content=piece) for piece in pieces), *translated.end()]
    assert [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"] == pieces


# The official client, over HTTP


@pytest.fixture
async def client(cache: FakeExactCache, providers: Providers) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        gateway(cache, providers) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as client,
    ):
        yield client


async def test_the_client_gets_a_message_and_the_gateways_headers(client: anthropic.AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(model="auto", max_tokens=9, messages=HI)
    message = await raw.parse()
    assert (message.content[0].text, message.stop_reason, message.model) == (  # type: ignore[union-attr]
        "Hello there, friend.",
        "end_turn",
        "small",
    )
    assert (message.usage.input_tokens, message.usage.output_tokens) == (100, 50)
    assert (raw.headers["x-tierwise-cache"], raw.headers["x-tierwise-tier"]) == ("miss", "local")


async def test_the_client_streams_a_message(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(model="auto", max_tokens=9, messages=HI) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == ["Hello ", "there, ", "friend."]
    assert (message.content[0].text, message.stop_reason) == ("Hello there, friend.", "end_turn")  # type: ignore[union-attr]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (100, 50)


async def test_a_stored_answer_is_replayed_to_the_client_whole_and_streamed(
    client: anthropic.AsyncAnthropic, cache: FakeExactCache
) -> None:
    first = await client.messages.create(model="auto", max_tokens=9, messages=HI)
    raw = await client.messages.with_raw_response.create(model="auto", max_tokens=9, messages=HI)
    again = await raw.parse()
    assert raw.headers["x-tierwise-cache"] == "hit"
    assert (again.content, again.usage.cache_read_input_tokens) == (first.content, 100)
    assert again.id != first.id
    async with client.messages.stream(model="auto", max_tokens=9, messages=HI) as stream:
        assert stream.response.headers["x-tierwise-cache"] == "hit"
        assert await stream.get_final_text() == "Hello there, friend."


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_client_is_told_to_use_a_tool_and_sends_its_result(
    client: anthropic.AsyncAnthropic, providers: Providers, streamed: bool
) -> None:
    providers["local"].completion = answer(None, tool_calls=[CALL], finish_reason="tool_calls")
    asked: Any = {"model": "auto", "max_tokens": 9, "tools": [TOOL]}
    if streamed:
        async with client.messages.stream(messages=HI, **asked) as stream:
            message: Any = await stream.get_final_message()
    else:
        message = await client.messages.create(messages=HI, **asked)
    (use,) = message.content
    assert (message.stop_reason, use.name, use.input, use.id) == ("tool_use", "weather", {"city": "Bern"}, "call_1")
    providers["local"].completion = answer("It rains.")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    turns: Any = [*HI, message.to_param(), {"role": "user", "content": [result]}]
    last: Any = await client.messages.create(messages=turns, **asked)
    assert last.content[0].text == "It rains."
    assert providers["local"].bodies[-1]["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


async def test_the_client_parses_an_answer_of_a_schema(client: anthropic.AsyncAnthropic, providers: Providers) -> None:
    class Invoice(pydantic.BaseModel):
        total: int

    providers["local"].completion = answer('{"total": 7}')
    message = await client.messages.parse(model="auto", max_tokens=9, messages=HI, output_format=Invoice)
    assert message.parsed_output == Invoice(total=7)
    assert providers["local"].bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["total"]


async def test_the_client_gets_the_error_of_a_stream_that_breaks_off(
    client: anthropic.AsyncAnthropic, providers: Providers
) -> None:
    providers["local"].breaks_after = 1
    with pytest.raises(anthropic.APIStatusError, match="the connection broke"):
        async with client.messages.stream(model="auto", max_tokens=9, messages=HI) as stream:
            await stream.get_final_message()


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"model": "gpt-9"}, anthropic.NotFoundError, "not_found_error"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, anthropic.BadRequestError, "invalid_request_error"),
    ],
)
async def test_the_client_gets_errors_of_its_own_kind(
    client: anthropic.AsyncAnthropic, fields: dict[str, Any], error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as caught:
        await client.messages.create(**{"model": "auto", "max_tokens": 9, "messages": HI, **fields})
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)


async def test_a_key_comes_in_either_header(cache: FakeExactCache, providers: Providers, tmp_path: Path) -> None:
    file = tmp_path / "tenants.keys"
    file.write_text(f"{key_hash('one')} acme\n")
    body = {"model": "auto", "max_tokens": 9, "messages": HI}
    async with gateway(cache, providers, KeyFileTenants(file=file).build()) as url, httpx2.AsyncClient() as http:
        found = [
            await http.post(f"{url}/v1/messages", json=body, headers=headers)
            for headers in ({"x-api-key": "one"}, {"authorization": "Bearer one"}, {"x-api-key": "two"}, {})
        ]
    assert [response.status_code for response in found] == [200, 200, 401, 401]
    assert found[3].json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/messages"), ("POST", "/v1/messages/count_tokens")])
async def test_what_is_not_there_is_said_in_anthropics_shape(providers: Providers, method: str, path: str) -> None:
    async with gateway(None, providers) as url, httpx2.AsyncClient() as http:
        response = await http.request(method, f"{url}{path}")
    assert response.status_code in (404, 405)
    assert response.json()["type"] == "error"
