"""The HTTP surface: endpoints, who asks, and errors, over a TrafficController."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app import __version__
from app.api_dashboard import add_dashboard
from app.api_ledger import UNKEPT, Books, add_ledger, embedded
from app.api_quality import add_quality
from app.canary import Arm, arm_of
from app.config import GatewayConfig
from app.controller import TrafficController
from app.dashboard import Dashboard
from app.dialects import ChatDialect, Dialect, EmbeddingsRequest, MessagesDialect, ResponsesDialect, message_error
from app.errors import (
    BudgetExceededError,
    CacheUnavailableError,
    GatewayError,
    InvalidRequestError,
    ModelNotFoundError,
    PermissionDeniedError,
    RequestTooLargeError,
    UnavailableError,
)
from app.ledger.record import refused
from app.protocols import CacheClearer, TextEmbedder
from app.replies import replayed, streamed, whole
from app.schema import ChatRequest, Outcome, PartStatus
from app.shaping import Shaper
from app.tenants import Tenants
from app.wire import encode, error_body, last_user_text, parse_feedback

# Who asks what fails, for the log: the request's id and the tenant.
caller: ContextVar[tuple[str | None, str | None]] = ContextVar("caller", default=(None, None))


@dataclass(frozen=True, slots=True)
class _Side:
    """What answers by one configuration."""

    controller: TrafficController
    shaper: Shaper


def build_api(
    controller: TrafficController,
    config: GatewayConfig,
    tenants: Tenants,
    parts: Callable[[], Awaitable[Sequence[PartStatus]]],
    metrics: Callable[[], Awaitable[bytes]],
    on_error: Callable[[GatewayError], None] = lambda error: None,
    on_feedback: Callable[[bool], None] = lambda correct: None,
    clearer: CacheClearer | None = None,
    embedder: TextEmbedder | None = None,
    books: Books = UNKEPT,
    dashboard: Dashboard | None = None,
    canary: TrafficController | None = None,
) -> FastAPI:
    """Build the HTTP application.

    Args:
        parts: Asks every part for its state, for `/readyz`.
        metrics: Collects the Prometheus text of `/metrics`.
        on_error: Called with every failure that a client sees.
        on_feedback: Called with a client's verdict on a cached answer: whether it was correct.
        clearer: Evicts by scope and by tenant; None where there is no cache.
        embedder: The cache's encoder; likewise.
        books: The ledger, and the tenants' budgets.
        dashboard: Gathers the figures of `/dashboard`; None where no ledger is kept.
        canary: Answers the requests of the configuration's canary.
    """

    stable = _Side(controller, Shaper(config.profiles, config.auto_models[0]))
    second = config.canary_config()
    side = stable
    if canary is not None and second is not None:
        side = _Side(canary, Shaper(second.profiles, second.auto_models[0]))
    sides = {"": stable, "stable": stable, "canary": side}
    api = FastAPI(title="Tierwise", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    def identified(http: Request) -> tuple[str, str]:
        """Return the id of the request and the tenant, and leave them for the log."""
        request_id = _request_id(http)
        caller.set((request_id, None))
        tenant = tenants.of(_authorization(http))
        caller.set((request_id, tenant))
        http.state.asked = (tenant, time.perf_counter())
        return request_id, tenant

    async def ask(http: Request, dialect_of: type[Dialect]) -> Response:
        request_id, tenant = identified(http)
        dialect = dialect_of(await _body(http, config.max_body_bytes))
        arm = arm_of(config.canary, tenant, dialect.body)
        http.state.arm = arm
        http.state.headers = {"x-tierwise-canary": arm} if arm else {}
        request = _chat_request(dialect.body, tenant, http, request_id, arm)
        request = sides[arm].shaper.shaped(request, http.headers.get("x-tierwise-profile"))
        standing = await books.budgets.of(tenant) if books.budgets else None
        if standing is not None:
            http.state.headers |= standing.headers()
            request = replace(request, allowance=standing.allowance)
        response = await answered(http, request, dialect, sides[arm].controller)
        response.headers.update(_own_headers(http))
        return response

    async def answered(
        http: Request, request: ChatRequest, dialect: Dialect, controller: TrafficController
    ) -> Response:
        request_id = request.request_id
        if not request.body.get("stream"):
            outcome = await controller.handle(request)
            http.state.asked = None  # it is accounted for, whatever becomes of it
            return whole(outcome, dialect, request_id)
        answer = await controller.stream(request)
        http.state.asked = None
        if isinstance(answer, Outcome):
            return replayed(answer, dialect, request_id)
        return streamed(answer, dialect, request_id, on_error)

    def failed(http: Request, error: GatewayError) -> None:
        """Account for a failure; in the ledger only for a tenant's request that has left nothing there yet."""
        on_error(error)
        if asked := getattr(http.state, "asked", None):
            tenant, started = asked
            who = {"request_id": _request_id(http), "tenant": tenant, "endpoint": http.url.path}
            who["arm"] = getattr(http.state, "arm", "")
            books.on_refused(refused(time.time(), error, **who, latency_s=time.perf_counter() - started))

    def asked_in(dialect: type[Dialect]) -> Callable[[Request], Awaitable[Response]]:
        async def asked(http: Request) -> Response:
            return await ask(http, dialect)

        return asked

    # plain routes: FastAPI's own would look for parameters in each request
    api.add_route("/v1/chat/completions", asked_in(ChatDialect), methods=["POST"])
    api.add_route("/v1/responses", asked_in(ResponsesDialect), methods=["POST"])
    api.add_route("/v1/messages", asked_in(MessagesDialect), methods=["POST"])

    @api.post("/v1/embeddings")
    async def embeddings(http: Request) -> Response:
        request_id, tenant = identified(http)
        started = time.perf_counter()
        asked = EmbeddingsRequest(await _body(http, config.max_body_bytes), config.cache.embeddings.max_inputs)
        if embedder is None:
            raise ModelNotFoundError(
                "The cache's encoder makes the vectors; set `redis` in the configuration to have it."
            )
        try:
            vectors = await embedder.embed(asked.model, asked.texts)
        except CacheUnavailableError as error:
            raise UnavailableError(
                f"No vectors: {error.message}. Try again in {UnavailableError.retry_after_s} s."
            ) from error
        content = encode(asked.answer(vectors))
        books.on_end(embedded(asked.model, vectors, time.perf_counter() - started, tenant, request_id, http.url.path))
        return Response(content, 200, {"x-request-id": request_id}, "application/json")

    @api.get("/v1/models")
    async def models(http: Request) -> Response:
        tenants.of(_authorization(http))
        return JSONResponse({"object": "list", "data": _models(config)})

    @api.get("/v1/models/{model:path}")
    async def model(http: Request, model: str) -> Response:
        tenants.of(_authorization(http))
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
        authorization = _authorization(http)
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
    add_ledger(api, books.ledger, _owner)
    add_dashboard(api, dashboard, lambda http: _owner(http) is None)

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
        failed(http, error)
        return _failure(http, error, error.status_code)

    @api.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:
        message = error.detail
        if error.status_code in (404, 405) and message in ("Not Found", "Method Not Allowed"):
            message = f"Unknown request URL: {http.method} {http.url.path}. See the README for what there is."
        return _failure(http, InvalidRequestError(message), error.status_code)

    @api.exception_handler(Exception)
    async def unexpected(http: Request, error: Exception) -> Response:
        failure = GatewayError("The gateway had an error while processing your request.")
        failed(http, failure)
        return _failure(http, failure, failure.status_code)

    return api


def _no_entry(entry_id: str) -> HTTPException:
    return HTTPException(404, f"There is no cached answer `{entry_id}`; it may have expired.")


def _failure(http: Request, error: GatewayError, status: int) -> Response:
    """Answer with an error, in the shape that the client's API has."""
    anthropic = http.url.path.startswith("/v1/messages")
    body = message_error(error.message, status) if anthropic else error_body(error)
    headers = {"x-request-id": _request_id(http)}
    if isinstance(error, (UnavailableError, BudgetExceededError)):
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, BudgetExceededError):
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's clients would, at once
    headers |= _own_headers(http)
    return Response(encode(body), status, headers, "application/json")


def _own_headers(http: Request) -> dict[str, str]:
    """Return what a response to the request says whatever its fate."""
    return getattr(http.state, "headers", {})


def _authorization(http: Request) -> str | None:
    """Return the `Authorization` header; Anthropic's clients may send `x-api-key` in its place."""
    key = http.headers.get("x-api-key")
    return http.headers.get("authorization") or (f"Bearer {key}" if key else None)


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


def _chat_request(body: Mapping[str, Any], tenant: str, http: Request, request_id: str, arm: Arm) -> ChatRequest:
    control = http.headers.get("cache-control", "").lower()
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
        timeout_s=_timeout_s(http.headers.get("x-request-timeout")),
        endpoint=http.url.path,
        arm=arm,
    )


def _timeout_s(header: str | None) -> float:
    """Read how long the client waits."""
    try:
        seconds = float("inf") if header is None else float(header)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InvalidRequestError(f"x-request-timeout: `{header}` is not a number of seconds above 0.")
    return seconds


def _models(config: GatewayConfig) -> list[dict[str, Any]]:
    owners = dict.fromkeys(config.auto_models, "tierwise")
    owners |= {model: "tierwise" for profile in config.profiles.values() for model in profile.models}
    owners |= {tier.name: "tierwise" for tier in config.tiers}
    owners |= {name: tier.name for tier in config.tiers for name in tier.models()}
    if config.redis is not None:
        owners |= dict.fromkeys(config.cache.embeddings.names(config.cache.embedder.model), "cache")
    created = _STARTED
    return [{"id": name, "object": "model", "created": created, "owned_by": owner} for name, owner in owners.items()]


_STARTED = int(time.time())


def _readiness(parts: Sequence[PartStatus]) -> tuple[int, dict[str, Any]]:
    """Ready when nothing is down, degraded while some tier can answer, else unavailable."""
    tiers_up = any(part.state != "down" for part in parts if part.name.startswith("tier-"))
    all_up = all(part.state != "down" for part in parts)
    status = "ready" if all_up else "degraded" if tiers_up else "unavailable"
    body = {"status": status, "parts": {part.name: {"state": part.state, **part.detail} for part in parts}}
    return (200 if tiers_up else 503), body
