"""Endpoints for the operator: how much quality routing keeps, and pairs of answers for people to compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.config import GatewayConfig
from app.errors import InvalidRequestError, PermissionDeniedError
from app.quality.audit import QualityAuditor, Watch
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
        return JSONResponse(_shown(await watched(http).bounds.read(), config))

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
            raise HTTPException(404, f"There is no pair `{pair_id}`; it may have been compared already.")
        return JSONResponse({"id": pair_id, "better": better})


def _shown(watch: Watch, config: GatewayConfig) -> dict[str, Any]:
    kept, confidence = watch.kept, config.routing.quality.confidence
    tiers = {}
    for name, tally in kept.tallies.items():
        low, high = tally.interval(confidence)
        share = 1 - tally.wrong / max(tally.checked, 1)
        counts = {"checked": tally.checked, "worse": tally.wrong, "steps": kept.steps.get(name, 0)}
        tiers[name] = {"estimate": share, "lower": 1 - high, "upper": 1 - low, **counts}
    low, high = kept.interval(confidence)
    return {
        "promised": config.quality_kept(),
        "kept": {"estimate": kept.estimate(), "lower": low, "upper": high},
        "tiers": tiers,
        "drawn": kept.drawn,
        "routed_down": kept.down,
        "spent_today_usd": round(watch.spent_usd, 6),
        "waiting": watch.waiting,
    }
