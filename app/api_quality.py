"""Endpoints for the operator: how much quality routing keeps, and pairs of answers for people to compare."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.config import GatewayConfig
from app.errors import InvalidRequestError, PermissionDeniedError
from app.quality.audit import QualityAuditor
from app.wire import parse_preference


def add_quality(
    api: FastAPI, quality: QualityAuditor | None, config: GatewayConfig, is_admin: Callable[[Request], bool]
) -> None:
    """Add `/v1/quality` and what is below it.

    Args:
        quality: None where nothing is checked.
        is_admin: Whether a request's key may manage the gateway; raises for one that nobody has.
    """

    def watched(http: Request) -> QualityAuditor:
        if not is_admin(http):
            raise PermissionDeniedError("The quality kept, over all tenants, takes an admin key.")
        if quality is None:
            raise HTTPException(
                404, "Quality is not watched: that takes `redis`, and a best tier with its API key set."
            )
        return quality

    @api.get("/v1/quality")
    async def estimate(http: Request) -> Response:
        watch = await watched(http).bounds.read()
        return JSONResponse(watch.shown(config.quality_kept(), config.routing.quality.confidence))

    @api.get("/v1/quality/pairs")
    async def pairs(http: Request) -> Response:
        waiting = await watched(http).bounds.pairs()
        return JSONResponse({"object": "list", "data": [pair.shown() for pair in waiting]})

    @api.post("/v1/quality/pairs/{pair_id}")
    async def label(http: Request, pair_id: str) -> Response:
        auditor = watched(http)
        body = await http.body()
        if len(body) > config.max_body_bytes:
            raise InvalidRequestError("The body is too long.")
        better = parse_preference(body).better
        if not await auditor.label(pair_id, better):
            raise HTTPException(
                404, f"There is no pair `{pair_id}`; it may have been compared already, or a cut point has moved since."
            )
        return JSONResponse({"id": pair_id, "better": better})
