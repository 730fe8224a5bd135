from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import openai
import pytest

from app.errors import ContextLengthError, GatewayError, InvalidRequestError, UpstreamError, UpstreamTimeoutError
from app.providers import OpenAIProvider, OpenAIProviderConfig
from app.schema import StreamPart
from app.wire import ChunkAssembler
from tests.upstream import CONTEXT_LENGTH_ERROR, Script, Upstream

BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "What is the weather?"}]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": {"type": "object"}}}
BROKEN = Script(break_after=2)


@pytest.fixture(autouse=True)
async def closed_clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close the clients that `build` opens: a replica keeps its own for life, a test must not."""
    opened: list[openai.AsyncOpenAI] = []

    class Client(openai.AsyncOpenAI):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            opened.append(self)

    monkeypatch.setattr(openai, "AsyncOpenAI", Client)
    yield
    for client in opened:
        await client.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def provider(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> OpenAIProvider:
    monkeypatch.setenv("A_KEY", "secret")
    return provider_of(upstream.url)


def provider_of(url: str, timeout_s: float = 5) -> OpenAIProvider:
    return OpenAIProviderConfig(model="gpt-4o", base_url=url, api_key_env="A_KEY", timeout_s=timeout_s).build()


async def read(provider: OpenAIProvider, body: dict[str, Any] = BODY) -> dict[str, Any]:
    assembler = ChunkAssembler()
    async for part in provider.stream({**body, "stream": True}):
        for chunk in part.chunks:
            assembler.add(chunk)
    return assembler.completion()


async def failure(provider: OpenAIProvider, streamed: bool) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await (read(provider) if streamed else provider.complete(BODY))
    return raised.value


async def test_an_answer_comes_as_the_api_gave_it(upstream: Upstream, provider: OpenAIProvider) -> None:
    completion = await provider.complete(BODY)
    assert completion.body["choices"][0]["message"] == {"role": "assistant", "content": "Hello from the upstream."}
    assert (completion.body["id"], completion.target) == ("chatcmpl-upstream", "gpt-4o")
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 4)


async def test_the_body_passes_as_it_is_but_for_the_models_name(upstream: Upstream, provider: OpenAIProvider) -> None:
    options = {"temperature": 0.5, "seed": 7, "stop": ["."], "response_format": SCHEMA, "invented_tomorrow": {"a": 1}}
    await provider.complete({**BODY, **options})
    assert upstream.requests == [{**BODY, **options, "model": "gpt-4o"}]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("o3-mini", "max_completion_tokens"),
        ("gpt-5.1", "max_completion_tokens"),
        ("openai/o1", "max_completion_tokens"),
        ("gpt-4o", "max_tokens"),
        ("phi-o1", "max_tokens"),
    ],
)
async def test_a_reasoning_model_gets_the_limit_under_the_name_that_it_takes(
    upstream: Upstream, model: str, name: str
) -> None:
    provider = OpenAIProviderConfig(model=model, base_url=upstream.url, api_key_env=None).build()
    await provider.complete({**BODY, "max_tokens": 50})
    assert {key: value for key, value in upstream.requests[0].items() if key.startswith("max_")} == {name: 50}


async def test_the_key_of_the_environment_is_sent(upstream: Upstream, provider: OpenAIProvider) -> None:
    await provider.complete(BODY)
    assert upstream.headers[0]["authorization"] == "Bearer secret"


async def test_a_key_that_is_null_means_that_none_is_needed(upstream: Upstream) -> None:
    config = OpenAIProviderConfig(model="llama", base_url=upstream.url, api_key_env=None)
    assert config.available()
    assert (await config.build().complete(BODY)).target == "llama"


async def test_a_stream_is_the_same_answer_in_pieces_with_its_usage(
    upstream: Upstream, provider: OpenAIProvider
) -> None:
    assert await read(provider) == (await provider.complete(BODY)).body
    assert upstream.requests[0]["stream_options"] == {"include_usage": True}


async def test_a_stream_comes_piece_by_piece(upstream: Upstream, provider: OpenAIProvider) -> None:
    parts = [part async for part in provider.stream({**BODY, "stream": True})]
    assert len(parts) == 7  # the role, four words, the finish and the usage
    assert all(isinstance(part, StreamPart) and part.target == "gpt-4o" for part in parts)


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_pass_through_and_calls_come_back(
    upstream: Upstream, provider: OpenAIProvider, streamed: bool
) -> None:
    body = {**BODY, "tools": TOOLS, "tool_choice": "auto"}
    answer = await read(provider, body) if streamed else (await provider.complete(body)).body
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (upstream.requests[0]["tools"], upstream.requests[0]["tool_choice"]) == (TOOLS, "auto")
    assert (call["id"], call["function"]["name"], choice["finish_reason"]) == ("call_1", "weather", "tool_calls")
    assert json.loads(call["function"]["arguments"]) == {"echo": "What is the weather?"}


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 429, 500, 503])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_status_that_another_provider_may_not_give_is_an_upstreams_error(
    upstream: Upstream, provider: OpenAIProvider, status: int, streamed: bool
) -> None:
    upstream.script = Script(status=status)
    error = await failure(provider, streamed)
    assert type(error) is UpstreamError
    assert f"gpt-4o: status {status}" in error.message
    assert len(upstream.requests) == 1  # the client does not retry


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, 1.0),
        ({"retry-after": "7"}, 7.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}, 20.0),
        ({"retry-after": format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)}, 86400.0),
    ],
    ids=["nothing", "seconds", "the limit's reset", "a date"],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_429_says_how_long_to_wait(
    upstream: Upstream, provider: OpenAIProvider, headers: dict[str, str], pause_s: float, streamed: bool
) -> None:
    upstream.script = Script(status=429, headers=headers)
    error = await failure(provider, streamed)
    assert isinstance(error, UpstreamError)
    assert error.retry_after_s == pytest.approx(pause_s, abs=3600 if pause_s > 60 else 0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_answer_in_time_is_a_timeout(upstream: Upstream, provider: OpenAIProvider, streamed: bool) -> None:
    upstream.script = Script(hang_s=30)
    error = await failure(provider_of(upstream.url, timeout_s=0.1), streamed)
    assert isinstance(error, UpstreamTimeoutError)
    assert error.message == "gpt-4o: no answer in 0.1 s"


@pytest.mark.parametrize("streamed", [False, True])
async def test_nobody_listening_is_an_upstreams_error(
    upstream: Upstream, provider: OpenAIProvider, streamed: bool
) -> None:
    error = await failure(provider_of("http://127.0.0.1:9/v1"), streamed)
    assert type(error) is UpstreamError


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refused_request_is_the_clients_error_in_the_apis_words(
    upstream: Upstream, provider: OpenAIProvider, status: int, streamed: bool
) -> None:
    upstream.script = Script(status=status, error={"message": "too many", "param": "stop", "code": "array_too_long"})
    error = await failure(provider, streamed)
    assert type(error) is InvalidRequestError
    assert (error.message, error.param, error.code) == ("gpt-4o: too many", "stop", "array_too_long")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_over_the_models_context_is_told_apart(
    upstream: Upstream, provider: OpenAIProvider, streamed: bool
) -> None:
    upstream.script = Script(status=400, error=CONTEXT_LENGTH_ERROR)
    error = await failure(provider, streamed)
    assert isinstance(error, ContextLengthError)
    assert "8192 tokens" in error.message


@pytest.mark.parametrize(
    "raw",
    [b"", b"<html>", b'{"choices": ', b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}'],
)
async def test_something_else_than_a_completion_is_an_upstreams_error(
    upstream: Upstream, provider: OpenAIProvider, raw: bytes
) -> None:
    upstream.script = Script(raw=raw)
    error = await failure(provider, streamed=False)
    assert type(error) is UpstreamError
    assert error.message == "gpt-4o: the answer is not a chat completion"


@pytest.mark.parametrize(
    "script",
    [BROKEN, Script(raw=b'{"choices": '), Script(raw=b'{"error": {"message": "overloaded"}}')],
    ids=["connection cut", "malformed JSON", "an error"],
)
async def test_a_stream_that_breaks_off_is_an_upstreams_error_after_what_came(
    upstream: Upstream, provider: OpenAIProvider, script: Script
) -> None:
    upstream.script = script
    stream = provider.stream({**BODY, "stream": True})
    assert (await anext(stream)).chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    with pytest.raises(UpstreamError, match="gpt-4o: "):
        [part async for part in stream]


async def test_a_stream_that_stalls_is_a_timeout(upstream: Upstream, provider: OpenAIProvider) -> None:
    upstream.script = Script(chunk_delay_s=30)
    error = await failure(provider_of(upstream.url, timeout_s=0.1), streamed=True)
    assert isinstance(error, UpstreamTimeoutError)


async def test_a_stream_that_is_closed_stops_the_upstream(upstream: Upstream, provider: OpenAIProvider) -> None:
    upstream.script = Script(chunk_delay_s=0.02, text="word " * 1000)
    stream = provider.stream({**BODY, "stream": True})
    await anext(stream)
    await stream.aclose()
    assert upstream.wait_until(lambda: upstream.aborted == 1)


def test_a_target_without_its_key_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OpenAIProviderConfig(model="gpt-4o", api_key_env="A_KEY")
    monkeypatch.setenv("A_KEY", "")
    assert not config.available()
    monkeypatch.setenv("A_KEY", "secret")
    assert config.available()
