"""OpenTelemetry traces: Ray Serve makes a span for each hop, and these say what was decided in it.

Attributes follow OpenTelemetry's semantic conventions for generative AI; never is there a text among them. A
configuration turns traces on, beside `applications`: `tracing_config: {enabled: true, exporter_import_path:
"deployments.tracing:exporter", sampling_ratio: 0.01}`. Spans go where OTEL_EXPORTER_OTLP_ENDPOINT says. A client's
`traceparent` is followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from app.errors import GatewayError
from app.schema import Completion, Outcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_TRACER = trace.get_tracer("tierwise")


def exporter() -> list[SpanProcessor]:
    """Return what sends the spans of a process, in batches; the environment's OTEL_* variables say where and how."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


def describe(outcome: Outcome) -> None:
    """Write on the request's own span what became of it."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attributes(_answer(outcome.completion))
    facts = {
        "tier": outcome.tier,
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


def call_span(tier: str, body: Mapping[str, Any]) -> Span:
    """Start the span of a call to a tier, which the caller ends."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": str(body.get("model")),
        "tierwise.tier": tier,
    }
    numbers = {name: body[name] for name in _PARAMETERS if isinstance(body.get(name), int | float)}
    attributes |= {f"gen_ai.request.{name}": value for name, value in numbers.items()}
    return _TRACER.start_span(f"chat {tier}", kind=SpanKind.CLIENT, attributes=attributes)


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


def answered(span: Span, completion: Completion) -> None:
    """Write on a call's span what came."""
    if span.is_recording():
        span.set_attributes(_answer(completion))


_PARAMETERS = ("temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty", "seed")


def _answer(completion: Completion) -> dict[str, Any]:
    usage = completion.usage
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": completion.target,
        "gen_ai.response.finish_reasons": [str(choice.get("finish_reason")) for choice in completion.body["choices"]],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
