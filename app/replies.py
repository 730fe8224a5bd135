"""An outcome or a stream as an HTTP response, in the dialect of its request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from fastapi.responses import Response, StreamingResponse

from app.dialects import Dialect
from app.errors import GatewayError
from app.schema import Outcome, Streaming
from app.wire import chunks_of, encode, fresh, identity

log = logging.getLogger(__name__)
_SSE = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def whole(outcome: Outcome, dialect: Dialect, request_id: str) -> Response:
    """Answer in one piece."""
    content = encode(dialect.answer(_completion(outcome)))
    return Response(content, headers=_outcome_headers(outcome, request_id), media_type="application/json")


def replayed(outcome: Outcome, dialect: Dialect, request_id: str) -> Response:
    """Answer a request for a stream with an answer that is whole."""
    content = _sent(dialect.events(chunks_of(_completion(outcome)))) + _sent(dialect.end()) + dialect.done
    headers = _SSE | _outcome_headers(outcome, request_id)
    return Response(content, media_type="text/event-stream", headers=headers)


def streamed(
    answer: Streaming, dialect: Dialect, request_id: str, on_error: Callable[[GatewayError], None]
) -> Response:
    """Answer piece by piece."""
    headers = _SSE | _decision_headers(answer, answer.target, request_id)
    return StreamingResponse(_events(answer, dialect, on_error), media_type="text/event-stream", headers=headers)


async def _events(
    answer: Streaming, dialect: Dialect, on_error: Callable[[GatewayError], None]
) -> AsyncIterator[bytes]:
    own = identity() if answer.cache.status == "hit" else {}  # a hit: another request's stream
    try:
        async for part in answer.parts:
            content = _sent(dialect.events({**chunk, **own} for chunk in part.chunks))
            if content:
                yield content
        yield _sent(dialect.end()) + dialect.done
    except GatewayError as error:  # too late for a status: the stream ends with the error
        on_error(error)
        yield _sent([dialect.failed(error)])
    except Exception:
        log.exception("a stream broke off")
        failure = GatewayError("The gateway had an error while processing your request.")
        on_error(failure)
        yield _sent([dialect.failed(failure)])
    finally:
        await answer.parts.aclose()  # a client that went away: stop the upstream as well


def _sent(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Write server-sent events, under the name that their `type` is."""
    return b"".join(
        (b"event: %s\n" % event["type"].encode() if isinstance(event.get("type"), str) else b"")
        + b"data: "
        + encode(event)
        + b"\n\n"
        for event in events
    )


def _completion(outcome: Outcome) -> dict[str, Any]:
    """Return the completion; an answer that was made for another request gets an identity of its own."""
    body = outcome.completion.body
    if outcome.cache.reason == "coalesced":
        return {**body, **identity()}  # its prompt was read for the two of them: no cached tokens
    return fresh(body) if outcome.cache.status == "hit" else body


def _decision_headers(decision: Outcome | Streaming, target: str, request_id: str) -> dict[str, str]:
    headers = {
        "x-request-id": request_id,
        "x-tierwise-cache": decision.cache.status,
        "x-tierwise-cache-reason": decision.cache.reason,
        "x-tierwise-tier": decision.tier,
        "x-tierwise-model": target,
        "x-tierwise-route": decision.route,
    }
    for name in ("cascade", "schema"):
        if (fate := getattr(decision, name, None)) is not None:
            headers[f"x-tierwise-{name}"] = fate
    if decision.score is not None:
        headers["x-tierwise-score"] = f"{decision.score:.4f}"
    if decision.cache.similarity is not None:
        headers["x-tierwise-similarity"] = f"{decision.cache.similarity:.4f}"
    if decision.cache.evidence is not None:
        headers["x-tierwise-evidence"] = f"{decision.cache.evidence:.4f}"
    if decision.cache.entry_id is not None:
        headers["x-tierwise-cache-entry"] = decision.cache.entry_id
    return headers


def _outcome_headers(outcome: Outcome, request_id: str) -> dict[str, str]:
    return _decision_headers(outcome, outcome.completion.target, request_id) | {
        "x-tierwise-cost-usd": f"{outcome.cost_usd:.8f}",
        "x-tierwise-saved-usd": f"{outcome.saved_usd:.8f}",
    }
