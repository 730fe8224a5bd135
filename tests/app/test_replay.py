"""What a cached answer is replayed as, as the official client reads it: from a stream or whole, to either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from app.schema import Completion
from tests.app.test_api import client
from tests.fakes import CONFIG, USAGE, FakeExactCache, FakeProvider, answer

CALLS = [
    {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
    for i, city in enumerate(("Bern", "Rome"))
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}]}
CONFIG_WITH_CALLS = CONFIG.model_copy(update={"cache": CONFIG.cache.model_copy(update={"tool_calls": True})})


def choices(*texts: str, **fields: Any) -> Completion:
    message = [{"role": "assistant", "content": text} for text in texts]
    many = [{"index": i, "message": m, "finish_reason": "stop", **fields} for i, m in enumerate(message)]
    return Completion({**answer().body, "choices": many}, "small")


ANSWERS: dict[str, tuple[Completion, dict[str, Any]]] = {
    "text": (answer("Hello there, friend."), {}),
    "tool calls": (answer(None, tool_calls=CALLS, finish_reason="tool_calls"), {"tools": TOOLS}),
    "words and a tool call": (
        answer("Let me look.", tool_calls=CALLS[:1], finish_reason="tool_calls"),
        {"tools": TOOLS},
    ),
    "two choices": (choices("Hello.", "Good day."), {"n": 2}),
    "log probabilities": (choices("Hi", logprobs=LOGPROBS), {"logprobs": True}),
}


@pytest.fixture
async def asked(cache: FakeExactCache, providers: dict[str, FakeProvider]) -> AsyncIterator[openai.AsyncOpenAI]:
    http = client(cache, providers, config=CONFIG_WITH_CALLS)
    async with openai.AsyncOpenAI(base_url="http://gateway/v1", api_key="none", http_client=http) as asked:
        yield asked


async def ask(asked: openai.AsyncOpenAI, fields: dict[str, Any], *, streamed: bool) -> tuple[dict[str, Any], str]:
    """Ask as an application does and return the completion, put together by the client, and the cache's status."""
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}
    if not streamed:
        raw = await asked.chat.completions.with_raw_response.create(**body)
        return raw.parse().to_dict(), raw.headers["x-tierwise-cache"]
    async with asked.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
        async for _ in stream:
            pass
        status = stream._response.headers["x-tierwise-cache"]
        return (await stream.get_final_completion()).to_dict(), status


def said(completion: dict[str, Any]) -> list[dict[str, Any]]:
    """What every choice says, without the ids of calls and without what the client adds."""
    return [
        {
            "content": choice["message"].get("content"),
            "calls": [
                (call["type"], call["function"]["name"], call["function"]["arguments"])
                for call in choice["message"].get("tool_calls") or ()
            ],
            "finish_reason": choice["finish_reason"],
            "logprobs": (choice.get("logprobs") or {}).get("content"),
        }
        for choice in sorted(completion["choices"], key=lambda choice: int(choice["index"]))
    ]


@pytest.mark.parametrize("replayed_as_stream", [False, True], ids=["to a plain request", "to a streamed request"])
@pytest.mark.parametrize("stored_from_stream", [False, True], ids=["stored whole", "stored from a stream"])
@pytest.mark.parametrize(("completion", "fields"), ANSWERS.values(), ids=ANSWERS)
async def test_a_replay_says_what_the_model_said(
    asked: openai.AsyncOpenAI,
    providers: dict[str, FakeProvider],
    completion: Completion,
    fields: dict[str, Any],
    stored_from_stream: bool,
    replayed_as_stream: bool,
) -> None:
    providers["local"].completion = completion
    _, first_status = await ask(asked, fields, streamed=stored_from_stream)
    replay, status = await ask(asked, fields, streamed=replayed_as_stream)
    assert (first_status, status) == ("miss", "hit")
    assert said(replay) == said(completion.body)
    assert replay["model"] == "small"
    assert replay["id"] != completion.body["id"]
    assert replay["usage"] == {**USAGE, "prompt_tokens_details": {"cached_tokens": USAGE["prompt_tokens"]}}


@pytest.mark.parametrize("streamed", [False, True])
async def test_each_replay_of_a_call_has_an_id_that_no_other_has(
    asked: openai.AsyncOpenAI, providers: dict[str, FakeProvider], streamed: bool
) -> None:
    providers["local"].completion, fields = ANSWERS["tool calls"]
    answers = [(await ask(asked, fields, streamed=streamed))[0] for _ in range(3)]
    ids = [call["id"] for answered in answers for call in answered["choices"][0]["message"]["tool_calls"]]
    assert len(set(ids)) == 6


async def test_calls_of_tools_are_not_kept_unless_the_operator_wants_it(
    cache: FakeExactCache, providers: dict[str, FakeProvider]
) -> None:
    providers["local"].completion, fields = ANSWERS["tool calls"]
    async with openai.AsyncOpenAI(
        base_url="http://gateway/v1", api_key="none", http_client=client(cache, providers)
    ) as asked:
        assert [(await ask(asked, fields, streamed=False))[1] for _ in range(2)] == ["miss", "miss"]


async def test_an_answer_in_words_to_a_request_with_tools_is_kept(
    asked: openai.AsyncOpenAI, providers: dict[str, FakeProvider]
) -> None:
    providers["local"].completion = answer("It is sunny.")
    assert [(await ask(asked, {"tools": TOOLS}, streamed=False))[1] for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_reaches_the_client_and_is_not_kept(
    asked: openai.AsyncOpenAI, providers: dict[str, FakeProvider], streamed: bool
) -> None:
    providers["local"].completion = answer(None, refusal="I will not say.")
    for _ in range(2):
        completion, status = await ask(asked, {}, streamed=streamed)
        assert (completion["choices"][0]["message"]["refusal"], status) == ("I will not say.", "miss")
