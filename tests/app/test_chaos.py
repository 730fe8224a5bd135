"""The scripted upstream that fails: every fault is one, and an answer is its question's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.benchmark.faults import KINDS, FaultyUpstream, answer_to
from app.errors import UpstreamError
from app.providers import OpenAIProviderConfig
from app.tier.resume import resuming

BODY = {"model": "small", "messages": [{"role": "user", "content": "Why?"}], "temperature": 0}


@asynccontextmanager
async def served(upstream: FaultyUpstream) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.complete)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


class Always(FaultyUpstream):
    """Fails each time by one kind of fault."""

    def __init__(self, kind: str) -> None:
        super().__init__(1.0)
        self._kind = kind

    def _next(self) -> tuple[str, float]:
        return self._kind, 0.0


async def asked(upstream: FaultyUpstream, stream: bool) -> str:
    async with served(upstream) as url:
        provider = OpenAIProviderConfig(model="small", base_url=url, api_key_env=None, timeout_s=1.5).build()
        try:
            if not stream:
                return str((await provider.complete(BODY)).body["choices"][0]["message"]["content"])
            parts = [part async for part in resuming(BODY, lambda: provider.stream(BODY))]
        finally:
            await provider.aclose()
    choices = [choice for part in parts for chunk in part.chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("stream", [False, True])
async def test_without_faults_every_answer_is_its_questions(stream: bool) -> None:
    assert await asked(FaultyUpstream(0.0), stream) == answer_to("Why?")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "drip"])
async def test_every_fault_is_an_upstreams_error_and_never_a_wrong_answer(kind: str, stream: bool) -> None:
    upstream = Always(kind)
    with pytest.raises(UpstreamError):
        await asked(upstream, stream)
    assert upstream.calls[kind] >= 1
