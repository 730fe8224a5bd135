from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app import __version__
from app.api import build_api
from app.config import GatewayConfig
from app.errors import (
    ContextLengthError,
    GatewayError,
    InvalidRequestError,
    UpstreamError,
)
from app.schema import PartStatus, StreamPart
from app.tenants import KeyFileTenants, OpenTenants, Tenants, key_hash
from app.wire import ChunkAssembler
from tests.fakes import (
    CONFIG,
    FakeExactCache,
    FakeProvider,
    FakeSemanticCache,
    GatedProvider,
    answer,
    controller,
    words_of,
)

Providers = dict[str, FakeProvider]
BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


def client(
    cache: FakeExactCache | None,
    providers: Providers,
    *,
    score: float = 0.0,
    semantic: FakeSemanticCache | None = None,
    config: GatewayConfig = CONFIG,
    tenants: Tenants | None = None,
    parts: Sequence[PartStatus] = (),
    on_error: Callable[[GatewayError], None] = lambda error: None,
) -> httpx2.AsyncClient:
    async def states() -> Sequence[PartStatus]:
        return parts

    async def metrics() -> bytes:
        return b"tierwise_requests_total 1\n"

    gateway = controller(cache, providers, score=score, semantic=semantic, config=config)
    api = build_api(gateway, config, tenants or OpenTenants().build(), states, metrics, on_error)

    async def written(response: httpx2.Response) -> None:
        await gateway.drain()

    transport = httpx2.ASGITransport(app=api, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", event_hooks={"response": [written]})


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """Read a stream of server-sent events as strictly as its format is."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(chunks: Sequence[dict[str, Any]]) -> str:
    assembler = ChunkAssembler()
    for chunk in chunks:
        assembler.add(chunk)
    return str(assembler.completion()["choices"][0]["message"]["content"])


# Answers


async def test_an_answer_is_the_providers_own(cache: FakeExactCache, providers: Providers) -> None:
    response = await client(cache, providers).post(CHAT, json=BODY)
    assert (response.status_code, response.json()) == (200, answer().body)


async def test_headers_say_what_was_decided_and_what_it_cost(cache: FakeExactCache, providers: Providers) -> None:
    api = client(cache, providers, score=0.5, semantic=FakeSemanticCache())
    response = await api.post(CHAT, json=BODY, headers={"x-request-id": "abc"})
    ours = {name: value for name, value in response.headers.items() if name.startswith("x-")}
    assert ours == {
        "x-request-id": "abc",
        "x-tierwise-cache": "miss",
        "x-tierwise-cache-reason": "no candidate",
        "x-tierwise-tier": "mid",
        "x-tierwise-model": "medium",
        "x-tierwise-route": "score",
        "x-tierwise-score": "0.5000",
        "x-tierwise-cost-usd": "0.00020000",
        "x-tierwise-saved-usd": "0.00180000",
    }


async def test_a_hit_has_an_id_of_its_own_and_says_how_alike_it_was(
    cache: FakeExactCache, providers: Providers
) -> None:
    api = client(cache, providers)
    first = await api.post(CHAT, json=BODY)
    second = await api.post(CHAT, json=BODY)
    assert second.headers["x-tierwise-cache"] == "hit"
    assert second.headers["x-tierwise-similarity"] == "1.0000"
    assert "x-tierwise-score" not in second.headers
    assert second.json()["id"] != first.json()["id"]
    assert second.json()["choices"] == first.json()["choices"]


async def test_coalesced_answers_have_an_id_of_their_own_and_the_usage_of_the_call(
    cache: FakeExactCache, providers: Providers
) -> None:
    gated = GatedProvider("small")
    api = client(cache, {**providers, "local": gated})
    bodies = [BODY, BODY, {**BODY, "stream": True}]
    asked = [asyncio.create_task(api.post(CHAT, json=body)) for body in bodies]
    while cache.gets < len(asked):  # noqa: ASYNC110
        await asyncio.sleep(0)
    gated.gate.set()
    led, followed, streamed = await asyncio.gather(*asked)
    assert (followed.headers["x-tierwise-cache"], followed.headers["x-tierwise-cache-reason"]) == ("hit", "coalesced")
    assert {**followed.json(), **{key: led.json()[key] for key in ("id", "created")}} == led.json()
    assert text_of(events(streamed)) == "Hello there, friend."
    assert len({led.json()["id"], followed.json()["id"], *[chunk["id"] for chunk in events(streamed)]}) == 3
    assert len(gated.bodies) == 1


async def test_the_chunks_of_a_followed_stream_have_one_id_of_their_own(
    cache: FakeExactCache, providers: Providers
) -> None:
    gated = GatedProvider("small")
    api = client(cache, {**providers, "local": gated})
    asked = [asyncio.create_task(api.post(CHAT, json={**BODY, "stream": True})) for _ in range(2)]
    while cache.gets < len(asked):  # noqa: ASYNC110
        await asyncio.sleep(0)
    gated.gate.set()
    led, followed = [{chunk["id"] for chunk in events(response)} for response in await asyncio.gather(*asked)]
    assert (len(led), len(followed), led & followed) == (1, 1, set())


async def test_every_answer_has_a_request_id(cache: FakeExactCache, providers: Providers) -> None:
    api = client(cache, providers)
    ids = {(await api.post(CHAT, json=BODY)).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(("control", "asked", "stored"), [("no-cache", 2, 1), ("No-Store", 2, 0), ("max-age=0", 2, 1)])
async def test_cache_control_is_honoured(
    cache: FakeExactCache, providers: Providers, control: str, asked: int, stored: int
) -> None:
    api = client(cache, providers)
    for _ in range(2):
        await api.post(CHAT, json=BODY, headers={"cache-control": control})
    assert (len(providers["local"].bodies), len(cache.entries)) == (asked, stored)


# Streams


async def test_a_stream_is_server_sent_events_with_a_done_at_the_end(
    cache: FakeExactCache, providers: Providers
) -> None:
    response = await client(cache, providers).post(CHAT, json={**BODY, "stream": True})
    chunks = events(response)
    assert text_of(chunks) == "Hello there, friend."
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_usage_of_a_stream_is_sent_to_who_asks_for_it(cache: FakeExactCache, providers: Providers) -> None:
    body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    *_, last = events(await client(cache, providers).post(CHAT, json=body))
    assert (last["choices"], last["usage"]) == ([], answer().body["usage"])


async def test_a_streams_headers_say_what_was_decided(cache: FakeExactCache, providers: Providers) -> None:
    response = await client(cache, providers, score=0.5).post(CHAT, json={**BODY, "stream": True})
    assert response.headers["x-tierwise-tier"] == "mid"
    assert response.headers["x-tierwise-model"] == "medium"
    assert response.headers["cache-control"] == "no-cache"
    assert "x-tierwise-cost-usd" not in response.headers  # not known yet


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_hit_is_replayed_as_a_stream(cache: FakeExactCache, providers: Providers, include_usage: bool) -> None:
    api = client(cache, providers)
    first = await api.post(CHAT, json=BODY)
    body = {**BODY, "stream": True, "stream_options": {"include_usage": include_usage}}
    response = await api.post(CHAT, json=body)
    chunks = events(response)
    assert (response.headers["x-tierwise-cache"], text_of(chunks)) == ("hit", "Hello there, friend.")
    assert ("usage" in chunks[-1]) == include_usage
    assert {chunk["id"] for chunk in chunks} != {first.json()["id"]}
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_stream_that_breaks_off_ends_with_the_error(cache: FakeExactCache, providers: Providers) -> None:
    providers["local"].breaks_after = 1
    seen: list[GatewayError] = []
    response = await client(cache, providers, on_error=seen.append).post(CHAT, json={**BODY, "stream": True})
    first, last, rest = response.text.split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["content"] == "Hello "
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "upstream_error"
    assert (rest, [error.message for error in seen]) == ("", ["the connection broke"])


@pytest.mark.parametrize("cached", [True, False])
async def test_a_stream_that_breaks_off_by_a_failure_of_our_own_ends_with_an_error_that_tells_nothing(
    cache: FakeExactCache, providers: Providers, cached: bool
) -> None:
    class Failing(GatedProvider):
        async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
            yield StreamPart(list(words_of(self.completion.body))[:1], "small")
            raise RuntimeError("secret")

    seen: list[GatewayError] = []
    given = {**providers, "local": Failing("small")}
    response = await client(cache if cached else None, given, on_error=seen.append).post(
        CHAT, json={**BODY, "stream": True}
    )
    _, last, rest = response.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert (rest, len(seen), "secret" in response.text) == ("", 1, False)


async def test_a_stream_that_no_tier_starts_has_the_status_of_its_error(
    cache: FakeExactCache, providers: Providers
) -> None:
    for provider in providers.values():
        provider.error = UpstreamError("status 500", "fake")
    response = await client(cache, providers).post(CHAT, json={**BODY, "stream": True})
    assert (response.status_code, response.json()["error"]["type"]) == (503, "service_unavailable")


# Errors


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            InvalidRequestError("no", "stop"),
            400,
            {"message": "no", "type": "invalid_request_error", "param": "stop", "code": None},
        ),
        (
            ContextLengthError("too long"),
            400,
            {
                "message": "too long",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            },
        ),
        (
            UpstreamError("status 500", "fake"),
            503,
            {
                "message": "No model answered (tried: local, mid, top). Try again in 5 s.",
                "type": "service_unavailable",
                "param": None,
                "code": None,
            },
        ),
    ],
)
async def test_a_failure_has_openais_shape(
    cache: FakeExactCache, providers: Providers, error: GatewayError, status: int, body: dict[str, Any]
) -> None:
    for provider in providers.values():
        provider.error = error
    seen: list[GatewayError] = []
    response = await client(cache, providers, on_error=seen.append).post(
        CHAT, json=BODY, headers={"x-request-id": "abc"}
    )
    assert (response.status_code, response.json()) == (status, {"error": body})
    assert response.headers["x-request-id"] == "abc"
    assert [failure.message for failure in seen] == [body["message"]]


async def test_who_finds_no_tier_is_told_when_to_try_again(cache: FakeExactCache, providers: Providers) -> None:
    for provider in providers.values():
        provider.error = UpstreamError("status 500", "fake")
    response = await client(cache, providers).post(CHAT, json=BODY)
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("content", "param"),
    [(b"{", None), (b"[]", None), (b"{}", "model"), (b'{"model": "auto", "messages": []}', "messages")],
)
async def test_a_malformed_body_is_a_400_that_names_the_field(
    providers: Providers, content: bytes, param: str | None
) -> None:
    response = await client(None, providers).post(CHAT, content=content)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


async def test_an_unknown_model_is_a_404(providers: Providers) -> None:
    response = await client(None, providers).post(CHAT, json={**BODY, "model": "gpt-9"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_body_over_the_limit_is_a_413(providers: Providers) -> None:
    api = client(None, providers, config=CONFIG.model_copy(update={"max_body_bytes": 100}))
    assert (await api.post(CHAT, json=BODY)).status_code == 200
    response = await api.post(CHAT, json={**BODY, "user": "x" * 100})
    assert (response.status_code, response.json()["error"]["type"]) == (413, "invalid_request_error")


async def test_a_failure_of_our_own_is_a_500_that_tells_nothing(cache: FakeExactCache, providers: Providers) -> None:
    seen: list[GatewayError] = []
    del providers["local"]
    response = await client(cache, providers, on_error=seen.append).post(CHAT, json=BODY)
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert "local" not in response.text
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/completions", 404), ("GET", CHAT, 405), ("POST", "/", 404), ("GET", "/docs", 404)],
)
async def test_an_unknown_url_is_answered_in_openais_shape(
    providers: Providers, method: str, path: str, status: int
) -> None:
    response = await client(None, providers).request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert f"{method} {path}" in error["message"]


# Tenants


@pytest.fixture
def keys(tmp_path: Path) -> Tenants:
    file = tmp_path / "tenants.keys"
    file.write_text(f"{key_hash('one')} acme\n{key_hash('two')} globex\n")
    return KeyFileTenants(file=file).build()


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/auto")])
async def test_without_a_key_there_is_nothing_but_a_401(
    providers: Providers, keys: Tenants, method: str, path: str, headers: dict[str, str]
) -> None:
    response = await client(None, providers, tenants=keys).request(method, path, json=BODY, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert providers["local"].bodies == []


async def test_one_tenants_answer_is_not_anothers(cache: FakeExactCache, providers: Providers, keys: Tenants) -> None:
    api = client(cache, providers, tenants=keys)
    found = [
        (await api.post(CHAT, json=BODY, headers={"authorization": f"Bearer {key}"})).headers["x-tierwise-cache"]
        for key in ("one", "two", "one", "two")
    ]
    assert found == ["miss", "miss", "hit", "hit"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_need_no_key(providers: Providers, keys: Tenants, path: str) -> None:
    up = [PartStatus("tier-local", "up", {})]
    assert (await client(None, providers, tenants=keys, parts=up).get(path)).status_code == 200


# What there is


async def test_models_are_the_aliases_the_tiers_and_their_models(providers: Providers) -> None:
    response = await client(None, providers).get("/v1/models")
    owners = {model["id"]: model["owned_by"] for model in response.json()["data"]}
    assert response.json()["object"] == "list"
    assert owners == {
        **dict.fromkeys(("auto", "gpt-4", "local", "mid", "top"), "tierwise"),
        "small": "local",
        "medium": "mid",
        "large": "top",
    }


async def test_the_encoder_is_a_model_where_there_is_a_cache(providers: Providers) -> None:
    cached = {"redis": {"embedded": True}, "cache": {"embeddings": {"models": ["text-embedding-3-small"]}}}
    config = GatewayConfig.model_validate({**CONFIG.model_dump(exclude_defaults=True), **cached})
    response = await client(None, providers, config=config).get("/v1/models")
    encoders = [model["id"] for model in response.json()["data"] if model["owned_by"] == "cache"]
    assert encoders == ["minilm", "text-embedding-3-small"]


async def test_a_model_is_found_by_its_name(providers: Providers) -> None:
    api = client(None, providers)
    found, missing = await api.get("/v1/models/medium"), await api.get("/v1/models/org/gpt-9")
    assert (found.status_code, found.json()["id"], found.json()["object"]) == (200, "medium", "model")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "The model `org/gpt-9` does not exist.")


async def test_the_gateway_is_alive_whatever_its_parts_are(providers: Providers) -> None:
    response = await client(None, providers, parts=[PartStatus("tier-local", "down", {})]).get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "version": __version__})


@pytest.mark.parametrize(
    ("states", "code", "status"),
    [
        ({"redis": "up", "tier-local": "up", "tier-top": "up"}, 200, "ready"),
        ({"redis": "down", "tier-local": "up", "tier-top": "up"}, 200, "degraded"),
        ({"redis": "up", "tier-local": "down", "tier-top": "up"}, 200, "degraded"),
        ({"redis": "up", "tier-local": "down", "tier-top": "down"}, 503, "unavailable"),
        ({"redis": "up", "tier-local": "asleep", "tier-top": "up"}, 200, "ready"),
        ({"redis": "up", "tier-local": "asleep", "tier-top": "down"}, 200, "degraded"),
    ],
)
async def test_the_gateway_is_ready_degraded_or_unavailable(
    providers: Providers, states: dict[str, Any], code: int, status: str
) -> None:
    parts = [PartStatus(name, state, {}) for name, state in states.items()]
    response = await client(None, providers, parts=parts).get("/readyz")
    assert (response.status_code, response.json()["status"]) == (code, status)


async def test_readiness_shows_each_part_with_its_reason(providers: Providers) -> None:
    parts = [PartStatus("redis", "down", {"reason": "no answer"}), PartStatus("tier-local", "up", {})]
    response = await client(None, providers, parts=parts).get("/readyz")
    assert response.json()["parts"] == {
        "redis": {"state": "down", "reason": "no answer"},
        "tier-local": {"state": "up"},
    }


async def test_metrics_are_prometheus_text(providers: Providers) -> None:
    response = await client(None, providers).get("/metrics")
    assert (response.text, response.headers["content-type"]) == (
        "tierwise_requests_total 1\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )
