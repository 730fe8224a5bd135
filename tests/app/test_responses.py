"""OpenAI's Responses: the translation, and the official client over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialects import ResponsesDialect
from app.errors import InvalidRequestError
from tests.fakes import FakeExactCache, FakeProvider, answer
from tests.serving import gateway

Providers = dict[str, FakeProvider]
SCHEMA = {"type": "object", "properties": {}}
TOOL: Any = {"type": "function", "name": "weather", "description": "Weather.", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


def dialect(**fields: Any) -> ResponsesDialect:
    body = {"model": "auto", "input": "hi", **fields}
    return ResponsesDialect(json.dumps({name: value for name, value in body.items() if value is not None}).encode())


def chat(**fields: Any) -> dict[str, Any]:
    return dialect(**fields).body


def chunk(**delta: Any) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "model": "m", "created": 1}
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


# The request


def test_a_request_is_a_chat_completions() -> None:
    assert chat(
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        user="u1",
        stream=True,
        store=False,
        metadata={"a": "b"},
        reasoning={"effort": "low"},
        text={"format": {"type": "text"}, "verbosity": "low"},
        include=["reasoning.encrypted_content"],
        parallel_tool_calls=False,
    ) == {
        "model": "auto",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "u1",
        "stream": True,
        "reasoning_effort": "low",
        "verbosity": "low",
        "parallel_tool_calls": False,
    }


def test_input_items_are_messages() -> None:
    image = {"type": "input_image", "image_url": "https://x/y", "detail": "low"}
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "A cat.", "annotations": []}],
        },
        {"role": "user", "content": [image, {"type": "input_text", "text": "And this?"}]},
    ]
    assert chat(input=items)["messages"] == [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A cat."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://x/y", "detail": "low"}},
                {"type": "text", "text": "And this?"},
            ],
        },
    ]


def test_calls_of_functions_belong_to_the_message_of_the_assistant() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": name, "name": "weather", "arguments": "{}"}

    results = [{"type": "function_call_output", "call_id": name, "output": name} for name in ("a", "b")]
    user = {"role": "user", "content": "hi"}
    said = {"role": "assistant", "content": "Let me see."}
    messages = chat(input=[user, call("a"), call("b"), *results, said, call("c")])["messages"]
    shape = [(m["role"], m["content"], [c["id"] for c in m.get("tool_calls", [])]) for m in messages]
    assert shape == [
        ("user", "hi", []),
        ("assistant", None, ["a", "b"]),
        ("tool", "a", []),
        ("tool", "b", []),
        ("assistant", "Let me see.", ["c"]),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "required"),
        ({"type": "function", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tools_are_functions(choice: Any, expected: Any) -> None:
    body = chat(tools=[TOOL], tool_choice=choice)
    function = {"name": "weather", "description": "Weather.", "parameters": SCHEMA, "strict": True}
    assert (body["tools"], body["tool_choice"]) == ([{"type": "function", "function": function}], expected)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        ),
    ],
)
def test_a_format_is_a_response_format(wanted: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(text={"format": wanted})["response_format"] == expected


@pytest.mark.parametrize(
    ("fields", "param", "advice"),
    [
        ({"model": None}, "model", "missing"),
        ({"input": []}, "input", "at least one"),
        ({"input": [{"type": "reasoning"}]}, "input", "add a message"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the earlier turns"),
        ({"store": True}, "store", "send false"),
        ({"background": True}, "background", "`stream`"),
        ({"invented_tomorrow": 1}, "invented_tomorrow", "Leave it out"),
        ({"truncation": "auto"}, "truncation", "shorter `input`"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "functions of your own"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "`required`"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "no references"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
            "input[0].content[0].type",
            "no files",
        ),
        (
            {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "https://x/y"}]}]},
            "input[0].content[0]",
            "turn of the user",
        ),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(fields: dict[str, Any], param: str, advice: str) -> None:
    with pytest.raises(InvalidRequestError, match=advice) as caught:
        dialect(**fields)
    assert caught.value.param == param


# The answer


@pytest.mark.parametrize(
    ("finish_reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_the_status_says_why_it_ended(finish_reason: str, status: str, details: dict[str, str] | None) -> None:
    response = dialect().answer(answer(finish_reason=finish_reason).body)
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert response["output"][0]["status"] == status


def test_a_response_repeats_its_request() -> None:
    asked = {"instructions": "Be brief.", "metadata": {"a": "b"}, "tools": [TOOL], "temperature": 0.5}
    response = dialect(**asked).answer(answer().body)
    assert {name: response[name] for name in asked} == asked
    assert (response["store"], response["tool_choice"]) == (False, "auto")


def test_usage_says_what_was_cached_and_what_was_thought() -> None:
    body = answer().body
    details = {"prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 20}}
    usage = dialect().answer({**body, "usage": {**body["usage"], **details}})["usage"]
    assert (usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]) == (100, 60)
    assert (usage["output_tokens"], usage["output_tokens_details"]["reasoning_tokens"]) == (50, 20)
    assert usage["total_tokens"] == 150


@pytest.mark.parametrize("refusal", [False, True])
def test_the_events_of_a_text_are_numbered_and_in_openais_order(refusal: bool) -> None:
    translated = dialect(stream=True)
    field = "refusal" if refusal else "content"
    events = [*translated.events([chunk(role="assistant"), chunk(**{field: "No"}), chunk(**{field: "."})])]
    events += translated.end()
    kind = "refusal" if refusal else "output_text"
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *(f"{kind}.delta", f"{kind}.delta", f"{kind}.done"),
        *("content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@given(st.text(min_size=1), st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1))
def test_every_text_survives_whole_and_streamed(instructions: str, question: str, pieces: list[str]) -> None:
    for asked in (question, [{"role": "user", "content": [{"type": "input_text", "text": question}]}]):
        translated = dialect(instructions=instructions, input=asked)
        assert [message["content"] for message in translated.body["messages"]] == [instructions, question]
    whole = "".join(pieces)
    response = translated.answer(answer(whole).body)
    assert response["output"][0]["content"][0]["text"] == whole
    events = [*translated.events(chunk(content=piece) for piece in pieces), *translated.end()]
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == pieces
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == whole


# The official client, over HTTP


@pytest.fixture
async def client(cache: FakeExactCache, providers: Providers) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        gateway(cache, providers) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


async def test_the_client_gets_a_response_and_the_gateways_headers(client: openai.AsyncOpenAI) -> None:
    raw = await client.responses.with_raw_response.create(model="auto", input="hi")
    response = raw.parse()
    assert (response.output_text, response.status, response.model) == ("Hello there, friend.", "completed", "small")
    assert response.usage is not None
    assert response.usage.total_tokens == 150
    assert (raw.headers["x-tierwise-cache"], raw.headers["x-tierwise-tier"]) == ("miss", "local")


async def test_the_client_streams_a_response(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="auto", input="hi") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert deltas == ["Hello ", "there, ", "friend."]
    assert (response.output_text, response.status) == ("Hello there, friend.", "completed")


async def test_a_question_on_one_endpoint_is_answered_from_the_cache_on_another(client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
    raw = await client.responses.with_raw_response.create(model="auto", input="hi")
    response = raw.parse()
    assert (raw.headers["x-tierwise-cache"], response.output_text) == ("hit", "Hello there, friend.")
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 100
    async with client.responses.stream(model="auto", input="hi") as stream:
        assert (await stream.get_final_response()).output_text == "Hello there, friend."


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_client_is_told_to_call_a_function_and_sends_its_result(
    client: openai.AsyncOpenAI, providers: Providers, streamed: bool
) -> None:
    providers["local"].completion = answer(None, tool_calls=[CALL], finish_reason="tool_calls")
    conversation: list[Any] = [{"role": "user", "content": "hi"}]
    if streamed:
        async with client.responses.stream(model="auto", input=conversation, tools=[TOOL]) as stream:
            response: Any = await stream.get_final_response()
    else:
        response = await client.responses.create(model="auto", input=conversation, tools=[TOOL])
    (call,) = response.output
    assert (call.type, call.name, call.arguments, call.call_id) == (
        "function_call",
        "weather",
        '{"city": "Bern"}',
        "call_1",
    )
    providers["local"].completion = answer("It rains.")
    conversation += [call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    last = await client.responses.create(model="auto", input=conversation, tools=[TOOL])
    assert last.output_text == "It rains."
    assert providers["local"].bodies[-1]["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


async def test_the_client_parses_an_answer_of_a_schema(client: openai.AsyncOpenAI, providers: Providers) -> None:
    class Invoice(pydantic.BaseModel):
        total: int

    providers["local"].completion = answer('{"total": 7}')
    response = await client.responses.parse(model="auto", input="hi", text_format=Invoice)
    assert response.output_parsed == Invoice(total=7)
    assert providers["local"].bodies[0]["response_format"]["json_schema"]["name"] == "Invoice"


async def test_the_client_gets_the_error_of_a_stream_that_breaks_off(
    client: openai.AsyncOpenAI, providers: Providers
) -> None:
    providers["local"].breaks_after = 1
    with pytest.raises(openai.APIError, match="the connection broke"):
        async with client.responses.stream(model="auto", input="hi") as stream:
            await stream.get_final_response()


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id"),
    ],
)
async def test_the_client_gets_errors_of_its_own_kind(
    client: openai.AsyncOpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as caught:
        await client.responses.create(**{"model": "auto", "input": "hi", **fields})
    assert caught.value.param == param
