"""A scripted OpenAI-compatible upstream for benchmarks: it answers at once, and it is no model.

`python -m app.benchmark.upstream PORT`
"""

from __future__ import annotations

import sys

import msgspec
from aiohttp import web

_TEXT = "This is the scripted answer of a benchmark. " * 20
_COMPLETION = {
    "id": "chatcmpl-scripted",
    "object": "chat.completion",
    "created": 0,
    "model": "scripted",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 180, "total_tokens": 192},
}


async def _complete(request: web.Request) -> web.Response:
    msgspec.json.decode(await request.read())
    return web.Response(body=msgspec.json.encode(_COMPLETION), content_type="application/json")


def main(port: int) -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _complete)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
