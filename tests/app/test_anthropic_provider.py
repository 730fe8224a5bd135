"""The official client against an upstream of Anthropic's shape, over real HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest

from app.errors import (
    ContextLengthError,
    GatewayError,
    InvalidRequestError,
    UnfitError,
    UpstreamError,
    UpstreamTimeoutError,
)
from app.providers import AnthropicProvider, AnthropicProviderConfig
from app.providers.base import TargetConfig
from app.schema import StreamPart
from app.tier import PolicyConfig, Target, TargetPolicy
from app.tier.limits import RateLimit
from app.wire import ChunkAssembler
from tests.app.test_openai_provider import BODY, TOOLS
from tests.fakes import FakeExactCache
from tests.serving import gateway
from tests.upstream import Script, Upstream

MODEL = "claude-haiku-4-5"
FREE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
LIST = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"items": {"type": "object"}}}}
USAGE = {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 100, "output_tokens": 7}
both_ways = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
async def provider(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AnthropicProvider]:
    monkeypatch.setenv("A_KEY", "secret")
    async with aclosing(provider_of(upstream.url)) as made:
        yield made


def provider_of(url: str, model: str = MODEL, **keys: Any) -> AnthropicProvider:
    target = {"kind": "anthropic", "model": model, "base_url": url, "api_key_env": "A_KEY", "timeout_s": 5}
    return AnthropicProviderConfig.model_validate({**target, **keys}).build()


async def read(provider: AnthropicProvider, streamed: bool = True, **fields: Any) -> dict[str, Any]:
    """Return a completion, without its time."""
    if not streamed:
        answer = (await provider.complete({**BODY, **fields})).body
    else:
        assembler = ChunkAssembler()
        async for part in provider.stream({**BODY, **fields, "stream": True}):
            for chunk in part.chunks:
                assembler.add(chunk)
        answer = assembler.completion()
    assert answer.pop("created") > 1_700_000_000
    return answer


async def failure(provider: AnthropicProvider, streamed: bool) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await read(provider, streamed)
    return raised.value


# Answers


@both_ways
async def test_an_answer_that_leaves_nothing_of_a_limit_is_noted(
    upstream: Upstream, provider: AnthropicProvider, streamed: bool
) -> None:
    until = (datetime.now(UTC) + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    left = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": until}
    upstream.script = Script(headers=left)
    await read(provider, streamed)
    assert provider.quota.exhausted_until > time.monotonic() + 60


@both_ways
async def test_an_answer_is_a_chat_completion(provider: AnthropicProvider, streamed: bool) -> None:
    assert await read(provider, streamed) == {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello from the upstream."},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 4,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_the_key_and_the_translated_request_are_sent(upstream: Upstream, provider: AnthropicProvider) -> None:
    await provider.complete({**BODY, "temperature": 0.5})
    assert upstream.headers[0]["authorization"] == "Bearer secret"
    assert upstream.requests == [
        {
            "model": MODEL,
            "max_tokens": 8192,
            "temperature": 0.5,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the weather?"}]}],
        }
    ]


async def test_a_stream_comes_piece_by_piece(provider: AnthropicProvider) -> None:
    parts = [part async for part in provider.stream({**BODY, "stream": True})]
    assert [len(part.chunks) for part in parts] == [1, 1, 1, 1, 1, 2]  # the role, four words, the end with the usage
    assert all(isinstance(part, StreamPart) and part.target == MODEL for part in parts)


@both_ways
async def test_calls_of_tools_come_with_their_text_and_places(
    upstream: Upstream, provider: AnthropicProvider, streamed: bool
) -> None:
    uses = [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "Let me see."},
        *uses,
    ]
    upstream.script = Script(message={"content": content, "stop_reason": "tool_use"})
    (choice,) = (await read(provider, streamed, tools=TOOLS))["choices"]
    calls = [
        {"id": use["id"], "type": "function", "function": {"name": use["name"], "arguments": json.dumps(use["input"])}}
        for use in uses
    ]
    assert choice["message"] == {"role": "assistant", "content": "Let me see.", "tool_calls": calls}
    assert choice["finish_reason"] == "tool_calls"


@both_ways
@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("invented_tomorrow", "stop"),
    ],
)
async def test_why_an_answer_ended_is_said_in_openais_words(
    upstream: Upstream, provider: AnthropicProvider, reason: str, finish: str, streamed: bool
) -> None:
    upstream.script = Script(message={"stop_reason": reason})
    (choice,) = (await read(provider, streamed))["choices"]
    assert choice["finish_reason"] == finish


async def test_the_sequence_that_ended_an_answer_is_told(upstream: Upstream, provider: AnthropicProvider) -> None:
    upstream.script = Script(message={"stop_reason": "stop_sequence", "stop_sequence": "END"})
    whole = await provider.complete({**BODY, "stop": "END"})
    last = [part async for part in provider.stream({**BODY, "stop": "END"})][-1].chunks[0]
    assert whole.body["choices"][0]["stop_reason"] == last["choices"][0]["stop_reason"] == "END"


@both_ways
async def test_a_refusal_is_explained(upstream: Upstream, provider: AnthropicProvider, streamed: bool) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "That could do harm."}
    upstream.script = Script(text="", message={"stop_reason": "refusal", "stop_details": details})
    (choice,) = (await read(provider, streamed))["choices"]
    assert choice["message"]["refusal"] == "That could do harm."


@both_ways
async def test_tokens_of_the_apis_cache_are_prompt_tokens(
    upstream: Upstream, provider: AnthropicProvider, streamed: bool
) -> None:
    upstream.script = Script(message={"usage": {**USAGE, "output_tokens_details": {"thinking_tokens": 5}}})
    answer = await read(provider, streamed)
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (123, 7)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 20, "cache_write_tokens": 100}


@both_ways
@pytest.mark.parametrize(
    ("wanted", "given", "content"),
    [(FREE, {"a": "ä"}, {"a": "ä"}), (LIST, {"answer": [{"a": 1}]}, [{"a": 1}])],
    ids=["an object", "a list"],
)
async def test_an_answer_given_by_a_tool_comes_as_text(
    upstream: Upstream, provider: AnthropicProvider, wanted: Any, given: Any, content: Any, streamed: bool
) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "give_answer", "input": given}
    upstream.script = Script(message={"content": [use], "stop_reason": "tool_use"})
    (choice,) = (await read(provider, streamed, response_format=wanted))["choices"]
    assert json.loads(choice["message"]["content"]) == content
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)


# Failures


@both_ways
@pytest.mark.parametrize("status", [401, 402, 403, 404, 408, 409, 429, 500, 529])
async def test_a_status_that_another_provider_may_not_give_is_an_upstreams_error(
    upstream: Upstream, provider: AnthropicProvider, status: int, streamed: bool
) -> None:
    error = {"type": "some_error", "message": "no luck"}
    upstream.script = Script(status=status, error=error, headers={"retry-after": "7"})
    found = await failure(provider, streamed)
    assert type(found) is UpstreamError
    assert (found.message, found.retry_after_s) == (f"{MODEL}: status {status}: some_error", 7)
    assert len(upstream.requests) == 1  # the client does not retry


@both_ways
@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, "temperature: must be a number", InvalidRequestError),
        (422, "no", InvalidRequestError),
        (400, "prompt is too long: 208310 tokens > 200000 maximum", ContextLengthError),
        (400, "input length and `max_tokens` exceed context limit: 1 + 2 > 2", ContextLengthError),
        (413, "Request exceeds the maximum size", UnfitError),
        (400, "credit balance", UpstreamError),
    ],
)
async def test_a_refusal_of_the_request_is_told_from_a_fault_of_the_api(
    upstream: Upstream, provider: AnthropicProvider, status: int, said: str, kind: type[GatewayError], streamed: bool
) -> None:
    upstream.script = Script(status=status, error={"type": "invalid_request_error", "message": said})
    error = await failure(provider, streamed)
    assert type(error) is kind
    assert error.message.startswith(MODEL)
    assert said in error.message
    assert len(upstream.requests) == 1


@both_ways
async def test_no_answer_in_time_is_a_timeout(upstream: Upstream, provider: AnthropicProvider, streamed: bool) -> None:
    upstream.script = Script(hang_s=30)
    async with aclosing(provider_of(upstream.url, timeout_s=0.1)) as hasty:
        error = await failure(hasty, streamed)
    assert isinstance(error, UpstreamTimeoutError)
    assert error.message == f"{MODEL}: no answer in 0.1 s"


@both_ways
async def test_nobody_listening_is_an_upstreams_error(provider: AnthropicProvider, streamed: bool) -> None:
    async with aclosing(provider_of("http://127.0.0.1:9")) as lonely:
        assert type(await failure(lonely, streamed)) is UpstreamError


@pytest.mark.parametrize("raw", [b"", b"<html>", b'{"content": ', b"[]", b"null", b"{}", b'{"content": [{}]}'])
async def test_something_else_than_a_message_is_an_upstreams_error(
    upstream: Upstream, provider: AnthropicProvider, raw: bytes
) -> None:
    upstream.script = Script(raw=raw)
    error = await failure(provider, streamed=False)
    assert type(error) is UpstreamError
    assert error.message == f"{MODEL}: the answer is not a message"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(break_after=3), ""),
        (Script(raw=b'event: content_block_delta\ndata: {"type": \n\n'), "JSONDecodeError"),
        (Script(raw=b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 9}\n\n'), "an event"),
        (
            Script(raw=b'event: error\ndata: {"error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n'),
            "overloaded_error$",
        ),
    ],
    ids=["connection cut", "malformed JSON", "an unknown block", "an error"],
)
async def test_a_stream_that_breaks_off_is_an_upstreams_error_after_what_came(
    upstream: Upstream, provider: AnthropicProvider, script: Script, said: str
) -> None:
    upstream.script = script
    stream = provider.stream({**BODY, "stream": True})
    assert (await anext(stream)).chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    with pytest.raises(UpstreamError, match=f"{MODEL}: {said}"):
        [part async for part in stream]


async def test_a_stream_that_stalls_is_a_timeout(upstream: Upstream, provider: AnthropicProvider) -> None:
    upstream.script = Script(chunk_delay_s=30)
    async with aclosing(provider_of(upstream.url, timeout_s=0.1)) as hasty:
        assert isinstance(await failure(hasty, streamed=True), UpstreamTimeoutError)


async def test_a_stream_that_is_closed_stops_the_upstream(upstream: Upstream, provider: AnthropicProvider) -> None:
    upstream.script = Script(chunk_delay_s=0.02, text="word " * 1000)
    stream = provider.stream({**BODY, "stream": True})
    await anext(stream)
    await stream.aclose()
    assert upstream.wait_until(lambda: upstream.aborted == 1)


# Through the gateway


@both_ways
async def test_a_message_goes_through_the_gateway_to_anthropic_and_back_without_loss(
    upstream: Upstream, provider: AnthropicProvider, streamed: bool
) -> None:
    tool: Any = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
    use: Any = {"type": "tool_use", "id": "toolu_9", "name": "look", "input": {"at": "ä"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_9", "content": [{"type": "text", "text": "a cat"}]}
    sent: Any = {
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [image, linked, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "And here?"}]},
        ],
        "tools": [tool],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
    }
    content = [{"type": "text", "text": "Let me look again."}, {**use, "id": "toolu_10"}]
    upstream.script = Script(message={"content": content, "stop_reason": "tool_use", "usage": USAGE})
    claude = provider_of(upstream.url, "small", prompt_caching=False)
    config = TargetConfig(model="small")
    tier = TargetPolicy("local", [Target(config, claude, PolicyConfig(), RateLimit(config, "local"))], PolicyConfig())
    async with (
        aclosing(claude),
        gateway(FakeExactCache(), {"local": tier}) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as client,
    ):
        if streamed:
            async with client.messages.stream(model="local", **sent) as stream:
                message = await stream.get_final_message()
        else:
            message = await client.messages.create(model="local", **sent)
    (got,) = upstream.requests
    assert {name: got[name] for name in sent} == sent
    assert message.id == "msg_upstream"
    assert [block.to_dict() for block in message.content] == content
    assert message.stop_reason == "tool_use"
    assert {name: count for name, count in message.usage.to_dict().items() if name in USAGE} == USAGE


def test_a_target_without_its_key_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AnthropicProviderConfig(kind="anthropic", model=MODEL)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert not config.available()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    assert config.available()
