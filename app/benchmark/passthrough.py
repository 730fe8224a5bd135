"""The least that a Python gateway can be: FastAPI that passes a request on and its answer back.

`python -m app.benchmark.passthrough PORT UPSTREAM_URL [REDIS_URL]`; with a Redis, the least that a semantic cache can
be: it also asks that once, and embeds the prompt once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from redis.asyncio import Redis

from app.embedding.onnx import OnnxEmbedderConfig


def build(upstream: str, redis_url: str | None = None) -> FastAPI:
    """Build the application over one upstream."""
    api = FastAPI()
    redis = Redis.from_url(redis_url) if redis_url else None
    encoder = OnnxEmbedderConfig().build() if redis else None

    @api.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        session = getattr(api.state, "session", None)
        if session is None:
            session = api.state.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        if redis and encoder:
            prompt = json.loads(await http.body())["messages"][-1]["content"]
            await redis.get(prompt)
            await asyncio.to_thread(encoder.embed, [prompt])
        headers = {"content-type": "application/json"}
        answer = await session.post(f"{upstream}/v1/chat/completions", data=await http.body(), headers=headers)
        if answer.content_type != "text/event-stream":
            return Response(await answer.read(), answer.status, media_type=answer.content_type)

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in answer.content.iter_any():
                yield chunk

        return StreamingResponse(chunks(), answer.status, media_type=answer.content_type)

    return api


if __name__ == "__main__":
    uvicorn.run(build(*sys.argv[2:]), host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
