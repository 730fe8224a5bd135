"""The small gateway over real HTTP, for official clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from app.api import build_api
from app.protocols import TierProvider
from app.schema import PartStatus
from app.tenants import OpenTenants, Tenants
from tests.fakes import CONFIG, FakeEmbedder, FakeExactCache, FakeSemanticCache, controller


@asynccontextmanager
async def served(api: FastAPI) -> AsyncIterator[str]:
    """Serve an application on a free loopback port and yield its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off", timeout_graceful_shutdown=5))
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def gateway(
    cache: FakeExactCache | None,
    providers: Mapping[str, TierProvider],
    tenants: Tenants | None = None,
    embedder: FakeEmbedder | None = None,
) -> AsyncIterator[str]:
    """Serve the small gateway over fakes and yield its URL."""

    async def states() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    controlled = controller(cache, providers, semantic=FakeSemanticCache())
    tenants = tenants or OpenTenants().build()
    async with served(build_api(controlled, CONFIG, tenants, states, metrics, embedder=embedder)) as url:
        yield url
        await controlled.drain()
