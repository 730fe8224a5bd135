"""The operator's dashboard: its page, which knows nothing, and its figures, which take an admin key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from app import dashboard
from app.dashboard import Dashboard
from app.dashboard.periods import DEFAULT_RANGE
from app.errors import CacheUnavailableError, PermissionDeniedError, UnavailableError

_FOLDER = Path(dashboard.__file__).with_name("static")
_PAGE_HEADERS = {
    # nothing from elsewhere, nothing inline: whatever a tenant or a model is called, it cannot run
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class _Files(StaticFiles):
    """The page's scripts and styles."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Serve a file with the page's headers."""
        response = super().file_response(*args, **options)
        response.headers.update(_PAGE_HEADERS)
        return response


def add_dashboard(api: FastAPI, board: Dashboard | None, is_admin: Callable[[Request], bool]) -> None:
    """Add `/dashboard` and `/v1/dashboard`.

    Args:
        board: None where no ledger is kept.
        is_admin: Whether a request's key may manage the gateway; raises for one that nobody has.
    """

    @api.get("/dashboard")
    async def page() -> Response:
        return FileResponse(_FOLDER / "index.html", headers=_PAGE_HEADERS)

    api.mount("/dashboard", _Files(directory=_FOLDER))

    @api.get("/v1/dashboard")
    async def figures(http: Request) -> Response:
        if not is_admin(http):
            raise PermissionDeniedError("The dashboard shows all tenants: it takes an admin key.")
        if board is None:
            raise HTTPException(404, "There is nothing to show: that takes `redis` and `ledger.enabled`.")
        try:
            found = await board.figures(http.query_params.get("range", DEFAULT_RANGE))
        except CacheUnavailableError as error:
            raise UnavailableError(f"The figures cannot be read from Redis: {error.message}. Try again.") from error
        return JSONResponse(found, headers={"cache-control": "no-store"})
