"""OpenTelemetry traces: Ray Serve makes a span for each hop, and these say what was decided in it.

A call of a tier follows OpenTelemetry's semantic conventions for generative AI; the request's own span has attributes
of ours, so that tokens are there once, and a hit has none. Never is there a text among them. A configuration turns
traces on, beside `applications`: `tracing_config: {enabled: true, exporter_import_path: "deployments.tracing:exporter",
sampling_ratio: 0.01}`. Spans go where OTEL_EXPORTER_OTLP_ENDPOINT says. A client's `traceparent` is followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from app.errors import GatewayError
from app.schema import Completion, Outcome, StreamPart
from deployments.wordless import WordlessProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_TRACER = trace.get_tracer("tierwise")


def exporter() -> list[SpanProcessor]:
    """Return what sends the spans of a process, in batches; the environment's OTEL_* variables say where and how."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return [WordlessProcessor(OTLPSpanExporter())]


def describe(outcome: Outcome) -> None:
    """Write on the request's own span what became of it."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    facts = {
        "tier": outcome.tier,
        "model": outcome.completion.target,
        "route": outcome.route,
        "score": outcome.score,
        "cache": outcome.cache.status,
        "cache.reason": outcome.cache.reason,
        "cache.similarity": outcome.cache.similarity,
        "attempts": outcome.attempts,
        "cost_usd": outcome.cost_usd,
        "saved_usd": outcome.saved_usd,
        "tenant": outcome.tenant,
        "request_id": outcome.request_id,
        "finished": outcome.finished,
    }
    span.set_attributes({f"tierwise.{name}": value for name, value in facts.items() if value is not None})


def describe_error(error: GatewayError) -> None:
    """Write on the request's own span how it failed; the message stays out, since an upstream may quote the request."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"error.type": error.code or error.type, "tierwise.status": error.status_code})
        if error.status_code >= 500:
            span.set_status(Status(StatusCode.ERROR))


def call_span(tier: str, body: Mapping[str, Any], providers: Mapping[str, str]) -> Span:
    """Start the span of a call to a tier, which the caller ends.

    Args:
        providers: Who serves each of the tier's models; before an answer the first stands for all.
    """
    model = str(body.get("model"))
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": providers.get(model) or next(iter(providers.values())),
        "gen_ai.request.model": model,
        "tierwise.tier": tier,
    }
    numbers = {name: body[name] for name in _PARAMETERS if isinstance(body.get(name), int | float)}
    attributes |= {f"gen_ai.request.{name}": value for name, value in numbers.items()}
    return _TRACER.start_span(f"chat {model}", kind=SpanKind.CLIENT, attributes=attributes)


@contextlib.contextmanager
def ending(span: Span) -> Iterator[None]:
    """End a span with the block; an error that leaves it is its status, without the message."""
    try:
        yield
    except Exception as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


def answered(span: Span, completion: Completion, providers: Mapping[str, str]) -> None:
    """Write on a call's span what came."""
    if span.is_recording():
        span.set_attributes(_answer(completion, providers))


class Streamed:
    """Writes on a call's span what comes of a stream, as it comes: it may break off."""

    def __init__(self, span: Span, providers: Mapping[str, str]) -> None:
        self._span = span
        self._providers = providers
        self._body: dict[str, Any] = {"choices": []}

    def add(self, part: StreamPart) -> None:
        """Take the next part."""
        if not self._span.is_recording():
            return
        for chunk in part.chunks:
            self._body |= {name: chunk[name] for name in ("id", "usage") if chunk.get(name)}
            self._body["choices"] += [choice for choice in chunk.get("choices") or () if choice.get("finish_reason")]
        self._span.set_attributes(_answer(Completion(self._body, part.target), self._providers))


_PARAMETERS = ("temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty", "seed")


def _answer(completion: Completion, providers: Mapping[str, str]) -> dict[str, Any]:
    body, usage = completion.body, completion.usage
    found = {
        "gen_ai.provider.name": providers.get(completion.target),
        "gen_ai.response.id": body.get("id"),
        "gen_ai.response.model": completion.target,
        "gen_ai.response.finish_reasons": [str(choice.get("finish_reason")) for choice in body.get("choices") or ()],
        "gen_ai.usage.input_tokens": usage.prompt_tokens if body.get("usage") else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if body.get("usage") else None,
    }
    return {name: value for name, value in found.items() if value not in (None, [])}
