"""The OpenAI surface: endpoints, headers and errors over a TrafficController."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from app import __version__
from app.api_quality import add_quality
from app.config import GatewayConfig
from app.controller import TrafficController
from app.errors import (
    GatewayError,
    InvalidRequestError,
    PermissionDeniedError,
    RequestTooLargeError,
    UnavailableError,
)
from app.protocols import CacheClearer
from app.schema import ChatRequest, Outcome, PartStatus, Streaming
from app.tenants import Tenants
from app.wire import chunks_of, encode, error_body, fresh, identity, last_user_text, parse_body, parse_feedback

# Who asks what fails, for the log: the request's id and the tenant.
caller: ContextVar[tuple[str | None, str | None]] = ContextVar("caller", default=(None, None))
_DONE = b"data: [DONE]\n\n"
_SSE = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def build_api(
    controller: TrafficController,
    config: GatewayConfig,
    tenants: Tenants,
    parts: Callable[[], Awaitable[Sequence[PartStatus]]],
    metrics: Callable[[], Awaitable[bytes]],
    on_error: Callable[[GatewayError], None] = lambda error: None,
    on_feedback: Callable[[bool], None] = lambda correct: None,
    clearer: CacheClearer | None = None,
) -> FastAPI:
    """Build the HTTP application.

    Args:
        parts: Asks every part for its state, for `/readyz`.
        metrics: Collects the Prometheus text of `/metrics`.
        on_error: Called with every failure that a client sees.
        on_feedback: Called with a client's verdict on a cached answer: whether it was correct.
        clearer: Evicts by scope and by tenant; None where there is no cache.
    """
    api = FastAPI(title="Tierwise", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    @api.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        request_id = _request_id(http)
        caller.set((request_id, None))
        tenant = tenants.of(http.headers.get("authorization"))
        caller.set((request_id, tenant))
        request = _chat_request(await _body(http, config.max_body_bytes), tenant, http.headers, request_id)
        if not request.body.get("stream"):
            outcome = await controller.handle(request)
            return _json(outcome, request_id)
        include_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        answer = await controller.stream(request)
        if isinstance(answer, Outcome):
            chunks = chunks_of(_body_of(answer))
            content = b"".join(map(_event, _without_usage(chunks, include_usage))) + _DONE
            headers = _SSE | _outcome_headers(answer, request_id)
            return Response(content, media_type="text/event-stream", headers=headers)
        return StreamingResponse(
            _events(answer, include_usage, on_error),
            media_type="text/event-stream",
            headers=_SSE | _decision_headers(answer, answer.target, request_id),
        )

    @api.get("/v1/models")
    async def models(http: Request) -> Response:
        tenants.of(http.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": _models(config)})

    @api.get("/v1/models/{model:path}")
    async def model(http: Request, model: str) -> Response:
        tenants.of(http.headers.get("authorization"))
        for entry in _models(config):
            if entry["id"] == model:
                return JSONResponse(entry)
        raise HTTPException(404, f"The model `{model}` does not exist.")

    @api.delete("/v1/cache/{entry_id}")
    async def forget(http: Request, entry_id: str) -> Response:
        if not await controller.forget(entry_id, _owner(http)):
            raise _no_entry(entry_id)
        return JSONResponse({"entry": entry_id, "evicted": True})

    def _owner(http: Request) -> str | None:
        """Return whose entries the key may touch: its tenant's, or everybody's."""
        authorization = http.headers.get("authorization")
        tenant = tenants.of(authorization)
        return None if tenants.is_admin(authorization) else tenant

    @api.delete("/v1/cache")
    async def clear(http: Request) -> Response:
        owner, asked = _owner(http), dict(http.query_params)
        if len(asked) != 1 or not asked.keys() <= {"scope", "tenant"}:
            raise InvalidRequestError("Name what to clear: either `?scope=SCOPE` or `?tenant=TENANT`.")
        ((kind, name),) = asked.items()
        if owner is not None and (kind, name) != ("tenant", owner):
            raise PermissionDeniedError("Clearing by scope, or for another tenant, takes an admin key.", kind)
        if clearer is None:
            return JSONResponse({kind: name, "evicted": 0})
        evicted = await (clearer.clear_scope(name) if kind == "scope" else clearer.clear_tenant(name))
        return JSONResponse({kind: name, "evicted": evicted})

    @api.post("/v1/cache/feedback")
    async def feedback(http: Request) -> Response:
        owner = _owner(http)
        report = parse_feedback(await _body(http, config.max_body_bytes))
        if not await controller.report(report.entry, report.correct, owner):
            raise _no_entry(report.entry)
        on_feedback(report.correct)
        return JSONResponse({"entry": report.entry, "evicted": not report.correct})

    add_quality(api, controller.quality, config, lambda http: _owner(http) is None)

    @api.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    @api.get("/readyz")
    async def readyz() -> Response:
        status, body = _readiness(await parts())
        return JSONResponse(body, status)

    @api.get("/metrics")
    async def prometheus() -> Response:
        return Response(await metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.exception_handler(GatewayError)
    async def gateway_error(http: Request, error: GatewayError) -> Response:
        on_error(error)
        headers = {"x-request-id": _request_id(http)}
        if isinstance(error, UnavailableError):
            headers["retry-after"] = str(error.retry_after_s)
        return Response(encode(error_body(error)), error.status_code, headers, "application/json")

    @api.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:
        message = error.detail
        if error.status_code in (404, 405) and message in ("Not Found", "Method Not Allowed"):
            message = f"Unknown request URL: {http.method} {http.url.path}. See the README for what there is."
        body = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        headers = {"x-request-id": _request_id(http)}
        return JSONResponse({"error": body}, error.status_code, headers)

    @api.exception_handler(Exception)
    async def unexpected(http: Request, error: Exception) -> Response:
        failure = GatewayError("The gateway had an error while processing your request.")
        on_error(failure)
        headers = {"x-request-id": _request_id(http)}
        return Response(encode(error_body(failure)), failure.status_code, headers, "application/json")

    return api


def _no_entry(entry_id: str) -> HTTPException:
    return HTTPException(404, f"There is no cached answer `{entry_id}`; it may have expired.")


def _request_id(http: Request) -> str:
    """Return the client's own id of the request, or one made for it, the same each time."""
    if not hasattr(http.state, "request_id"):
        http.state.request_id = http.headers.get("x-request-id") or uuid.uuid4().hex
    return str(http.state.request_id)


async def _body(http: Request, max_bytes: int) -> bytes:
    chunks, size = [], 0
    async for chunk in http.stream():
        size += len(chunk)
        if size > max_bytes:
            raise RequestTooLargeError(f"The body is over {max_bytes} bytes. Send a shorter one.")
        chunks.append(chunk)
    return b"".join(chunks)


def _chat_request(raw: bytes, tenant: str, headers: Mapping[str, str], request_id: str) -> ChatRequest:
    body = parse_body(raw)
    control = headers.get("cache-control", "").lower()
    no_store = "no-store" in control
    max_age = re.search(r"\bmax-age=(\d{1,9})\b", control)
    return ChatRequest(
        body,
        tenant,
        last_user_text(body["messages"]),
        lookup=not no_store and "no-cache" not in control,
        store=not no_store,
        max_age_s=float(max_age[1]) if max_age else None,
        request_id=request_id,
    )


def _json(outcome: Outcome, request_id: str) -> Response:
    content = encode(_body_of(outcome))
    return Response(content, headers=_outcome_headers(outcome, request_id), media_type="application/json")


def _body_of(outcome: Outcome) -> dict[str, Any]:
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
    if decision.cascade is not None:
        headers["x-tierwise-cascade"] = decision.cascade
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


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def _without_usage(chunks: Iterable[dict[str, Any]], include_usage: bool) -> Iterable[dict[str, Any]]:
    """Drop the usage that the gateway asked for and the client did not."""
    if include_usage:
        return chunks
    return ({k: v for k, v in chunk.items() if k != "usage"} for chunk in chunks if chunk.get("choices"))


async def _events(
    answer: Streaming, include_usage: bool, on_error: Callable[[GatewayError], None]
) -> AsyncIterator[bytes]:
    own = identity() if answer.cache.status == "hit" else {}  # a hit: another request's stream
    try:
        async for part in answer.parts:
            chunks = [{**chunk, **own} for chunk in part.chunks]
            content = b"".join(map(_event, _without_usage(chunks, include_usage)))
            if content:
                yield content
        yield _DONE
    except GatewayError as error:  # too late for a status: the stream ends with the error
        on_error(error)
        yield _event(error_body(error))
    finally:
        await answer.parts.aclose()  # a client that went away: stop the upstream as well


def _models(config: GatewayConfig) -> list[dict[str, Any]]:
    owners = dict.fromkeys(config.auto_models, "tierwise")
    owners |= {tier.name: "tierwise" for tier in config.tiers}
    owners |= {name: tier.name for tier in config.tiers for name in tier.models()}
    created = _STARTED
    return [{"id": name, "object": "model", "created": created, "owned_by": owner} for name, owner in owners.items()]


_STARTED = int(time.time())


def _readiness(parts: Sequence[PartStatus]) -> tuple[int, dict[str, Any]]:
    """Ready when all is up, degraded while some tier can answer, else unavailable."""
    tiers_up = any(part.state == "up" for part in parts if part.name.startswith("tier-"))
    all_up = all(part.state == "up" for part in parts)
    status = "ready" if all_up else "degraded" if tiers_up else "unavailable"
    body = {"status": status, "parts": {part.name: {"state": part.state, **part.detail} for part in parts}}
    return (200 if tiers_up else 503), body
