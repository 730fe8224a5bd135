"""What spans say, every request sampled: of calls by OpenTelemetry's conventions, of requests what was decided."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, StatusCode

from app.api_ledger import embedded
from app.config import GatewayConfig
from app.errors import GatewayError, UpstreamError
from app.schema import NOBODY, CacheLookup, Completion, Outcome, StreamPart, Vectors
from app.wire import chunks_of
from deployments import tracing
from deployments.handles import RemoteProvider
from deployments.ingress import Ingress
from tests.fakes import CONFIG, answer

MISS = CacheLookup("miss", "no candidate")
ANSWERED = Outcome(answer(), "local", MISS, 0.2, 1, 0.0, 0.0, 0.1, "score")
GIVEN_UP = replace(ANSWERED, completion=Completion({}, ""), tier=NOBODY, attempts=0, finished=False)
VECTORS = embedded("minilm", Vectors("fake", [b""], 3), 0.1, "acme", "a", "/v1/embeddings")
PROVIDERS = {"small": "openai", "claude": "anthropic"}
BODY = {"model": "mid", "messages": [{"role": "user", "content": "my secret words"}], "temperature": 0.5}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exported, provider = InMemorySpanExporter(), TracerProvider(sampler=ALWAYS_ON)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    yield exported
    provider.shutdown()


def only(spans: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    (span,) = spans.get_finished_spans()
    return span, dict(span.attributes or {})


class Handle:
    """As much of a DeploymentHandle as a provider needs: it answers with `parts`, then with `error`."""

    def __init__(self, parts: list[StreamPart] | None = None, error: GatewayError | None = None) -> None:
        self.complete = self.stream = self
        self._parts = parts or []
        self._error = error

    def options(self, **options: Any) -> Handle:
        return self

    def remote(self, *arguments: Any) -> Any:
        return self

    def cancel(self) -> None:
        pass

    def __await__(self) -> Any:
        yield from ()
        if self._error:
            raise self._error
        return answer(model="claude")

    async def __aiter__(self) -> AsyncIterator[StreamPart]:
        for part in self._parts:
            yield part
        if self._error:
            raise self._error


def provider(handle: Any) -> RemoteProvider:
    return RemoteProvider(handle, "mid", 5, PROVIDERS)


def streamed(model: str = "claude") -> list[StreamPart]:
    return [StreamPart([chunk], model) for chunk in chunks_of(answer(model=model).body)]


class Kept:
    """As much of a ledger's writer as the ingress needs."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.add = self.outcomes.append


@pytest.mark.parametrize("outcome", [ANSWERED, GIVEN_UP, VECTORS], ids=["answered", "given up", "embeddings"])
async def test_a_sampled_request_of_every_kind_is_in_the_ledger_and_in_its_trace(
    spans: InMemorySpanExporter, outcome: Outcome
) -> None:
    handle: Any = Handle()
    ingress = Ingress(CONFIG, None, handle, {tier.name: handle for tier in CONFIG.tiers})
    kept: Any = Kept()
    ingress._writer = kept
    with tracing._TRACER.start_as_current_span("request"):
        ingress.record(outcome)
    _, attributes = only(spans)
    assert kept.outcomes == [outcome]
    assert (attributes["tierwise.tier"], attributes["tierwise.cache"]) == (outcome.tier, outcome.cache.status)
    assert not any(name.startswith("gen_ai.") for name in attributes)  # no call was made for a hit


async def test_a_trace_that_fails_leaves_the_ledger_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(outcome: Outcome) -> None:
        raise KeyError("choices")

    monkeypatch.setattr("deployments.ingress.describe", broken)
    handle: Any = Handle()
    ingress = Ingress(CONFIG, None, handle, {tier.name: handle for tier in CONFIG.tiers})
    kept: Any = Kept()
    ingress._writer = kept
    with pytest.raises(KeyError):
        ingress.record(ANSWERED)
    assert kept.outcomes == [ANSWERED]


async def ask(handle: Handle, stream: bool) -> None:
    remote = provider(handle)
    if stream:
        assert [part async for part in remote.stream({**BODY, "stream": True})]
    else:
        await remote.complete(BODY)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_s_span_follows_the_conventions_for_generative_ai(
    spans: InMemorySpanExporter, stream: bool
) -> None:
    await ask(Handle(streamed()), stream)
    span, attributes = only(spans)
    assert (span.name, span.kind, span.status.status_code) == ("chat mid", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",  # that of the target which answered
        "gen_ai.request.model": "mid",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "claude",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 50,
        "tierwise.tier": "mid",
    }


async def test_a_pinned_model_names_its_span(spans: InMemorySpanExporter) -> None:
    await provider(Handle()).complete({**BODY, "model": "claude"})
    assert only(spans)[0].name == "chat claude"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_fails_says_how_and_not_in_what_words(spans: InMemorySpanExporter, stream: bool) -> None:
    handle = Handle(streamed()[:1] if stream else [], UpstreamError("my secret words", "fake"))
    with pytest.raises(UpstreamError):
        await ask(handle, stream)
    span, attributes = only(spans)
    assert (span.status.status_code, attributes["error.type"]) == (StatusCode.ERROR, "UpstreamError")
    assert attributes["gen_ai.provider.name"] == ("anthropic" if stream else "openai")
    assert "secret" not in span.to_json()


def test_a_tier_names_who_serves_its_models() -> None:
    target = {"model": "claude", "kind": "anthropic"}
    config = GatewayConfig.model_validate(
        {
            "tiers": [
                {"name": "local", "max_score": 0.3, "llm": {"model": "bundled:smollm2-135m"}},
                {"name": "top", "max_score": 1.0, "targets": [target, {"model": "gpt-4o"}]},
            ]
        }
    )
    assert [tier.providers() for tier in config.tiers] == [
        {"smollm2-135m": "vllm"},
        {"claude": "anthropic", "gpt-4o": "openai"},
    ]
