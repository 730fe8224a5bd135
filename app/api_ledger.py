"""The ledger over HTTP: what was asked, decided and spent, for the operator, and for each tenant its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.errors import CacheUnavailableError, InvalidRequestError, PermissionDeniedError, UnavailableError
from app.ledger.budgets import Budgets
from app.ledger.compare import compared
from app.ledger.period import period, said
from app.ledger.record import Record
from app.ledger.store import RedisLedger
from app.ledger.summary import dimension, summary
from app.schema import CacheLookup, Completion, Outcome, Vectors
from app.wire import encode

_MOST = 1000
_SHOWN = [name for name in Record.__struct_fields__ if name not in ("prompt", "answer")]


@dataclass(frozen=True, slots=True)
class Books:
    """What the API needs of the accounts.

    Attributes:
        ledger: Reads them; None where none are kept.
        budgets: Knows where tenants stand; likewise.
        on_end: Called with the Outcome of a request that does not pass the controller,
        on_refused: and with the Record of one that got an error.
    """

    ledger: RedisLedger | None = None
    budgets: Budgets | None = None
    on_end: Callable[[Outcome], None] = lambda outcome: None
    on_refused: Callable[[Record], None] = lambda record: None


UNKEPT = Books()


def add_ledger(api: FastAPI, ledger: RedisLedger | None, owner: Callable[[Request], str | None]) -> None:
    """Add `/v1/ledger/summary`, `/v1/ledger/compare` and `/v1/ledger/recent`.

    Args:
        owner: The tenant of a request's key, None for an admin's; raises for a key that nobody has.
    """

    def kept(http: Request) -> tuple[RedisLedger, str | None]:
        """Return the ledger, and the tenant whose part of it is asked for; None for all."""
        mine, asked = owner(http), http.query_params.get("tenant")
        if mine is not None and asked not in (None, mine):
            raise PermissionDeniedError("The figures of other tenants take an admin key.", "tenant")
        if ledger is None:
            raise HTTPException(404, "There is no ledger: it takes `redis` and `ledger.enabled`.")
        return ledger, mine or asked

    @api.get("/v1/ledger/summary")
    async def summarised(http: Request) -> Response:
        books, tenant = kept(http)
        asked = http.query_params
        by = dimension(asked.get("by"))
        start, end = period(asked.get("from"), asked.get("to"), time.time())
        try:
            counted = await books.counted(start, end, tenant, hourly=by == "hour")
        except CacheUnavailableError as error:
            raise _unavailable(error) from error
        about = {"object": "ledger.summary", "from": said(start), "to": said(end), "tenant": tenant, "by": by}
        return JSONResponse(about | summary(counted, by))

    @api.get("/v1/ledger/compare")
    async def canary(http: Request) -> Response:
        books, tenant = kept(http)
        start, end = period(http.query_params.get("from"), http.query_params.get("to"), time.time())
        try:
            counted = await books.counted(start, end, tenant)
        except CacheUnavailableError as error:
            raise _unavailable(error) from error
        about = {"object": "ledger.comparison", "from": said(start), "to": said(end), "tenant": tenant}
        return JSONResponse(about | compared(counted))

    @api.get("/v1/ledger/recent")
    async def recent(http: Request) -> Response:
        books, tenant = kept(http)
        if owner(http) is not None:
            raise PermissionDeniedError("The latest requests take an admin key.")
        limit = http.query_params.get("limit", "50")
        if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
            raise InvalidRequestError(f"`limit` must be a number from 1 to {_MOST}.", "limit")
        try:
            records = await books.recent(int(limit), time.time(), tenant)
        except CacheUnavailableError as error:
            raise _unavailable(error) from error
        data = [{name: getattr(record, name) for name in _SHOWN} for record in records]
        return Response(encode({"object": "list", "data": data}), media_type="application/json")


def embedded(model: str, vectors: Vectors, latency_s: float, tenant: str, request_id: str, endpoint: str) -> Outcome:
    """Account for vectors, which our own encoder made, for nothing."""
    usage = {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens}
    return Outcome(
        Completion({"usage": usage}, model),
        "embeddings",
        CacheLookup("bypass", "embeddings"),
        None,
        1,
        0.0,
        0.0,
        latency_s,
        "embeddings",
        tenant=tenant,
        request_id=request_id,
        endpoint=endpoint,
        stages={"model": latency_s},
    )


def _unavailable(error: CacheUnavailableError) -> UnavailableError:
    return UnavailableError(f"The ledger cannot be read: {error.message}. Try again.")
