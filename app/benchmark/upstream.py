"""A scripted OpenAI-compatible upstream for benchmarks: it answers at once, and it is no model.

`python -m app.benchmark.upstream PORT`; GET /requests says how many it has answered. With `--faults RATE` it answers
after a while, or fails: see `FaultyUpstream`; GET /state says how often. With `--held` it waits in its answers until
POST /release, and again from POST /hold.
"""

from __future__ import annotations

import sys

import msgspec
from aiohttp import web

from app.benchmark.faults import FaultyUpstream, HeldUpstream

_WORDS = ["This is the scripted answer of a benchmark. "] * 20
_HEAD = {"id": "chatcmpl-scripted", "created": 0, "model": "scripted"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": 180, "total_tokens": 192}
_COMPLETION = {
    **_HEAD,
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "".join(_WORDS)}, "finish_reason": "stop"},
    ],
    "usage": _USAGE,
}


class _Upstream:
    def __init__(self) -> None:
        self._requests = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._requests += 1
        body = msgspec.json.decode(await request.read())
        if body.get("stream"):
            return await self._stream(request, bool((body.get("stream_options") or {}).get("include_usage")))
        return web.Response(body=msgspec.json.encode(_COMPLETION), content_type="application/json")

    async def _stream(self, request: web.Request, usage: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for word in _WORDS:
            await response.write(_event({"delta": {"role": "assistant", "content": word}}))
        await response.write(_event({"delta": {}, "finish_reason": "stop"}))
        if usage:
            await response.write(_event(None))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def count(self, _: web.Request) -> web.Response:
        return web.json_response(self._requests)


def _event(choice: dict[str, object] | None) -> bytes:
    chunk = {
        **_HEAD,
        "object": "chat.completion.chunk",
        "choices": [] if choice is None else [{"index": 0, "finish_reason": None, **choice}],
        **({"usage": _USAGE} if choice is None else {}),
    }
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def main(port: int, options: list[str]) -> None:
    """Serve until killed."""
    app = web.Application()
    if not options:
        upstream = _Upstream()
        app.router.add_post("/v1/chat/completions", upstream.complete)
        app.router.add_get("/requests", upstream.count)
    else:
        held = HeldUpstream()
        faulty = held if options[0] == "--held" else FaultyUpstream(float(options[1]))
        app.router.add_post("/v1/chat/completions", faulty.complete)
        app.router.add_get("/state", faulty.state)
        app.router.add_post("/hold", held.hold)
        app.router.add_post("/release", held.release)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, handler_cancellation=True, backlog=4096)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
