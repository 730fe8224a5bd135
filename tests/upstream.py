"""A scripted OpenAI-compatible API over real HTTP, for the tests of clients and of the whole gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

CONTEXT_LENGTH_ERROR = {
    "message": "This model's maximum context length is 8192 tokens.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}


@dataclass(frozen=True)
class Script:
    """What the upstream does with a request.

    Attributes:
        text: The answer; a request with `tools` gets a call of the first one instead, with the text it sent.
        status: Anything but 200 sends `error` in OpenAI's shape.
        error: The error object.
        hang_s: Wait before the answer.
        raw: Sent in place of an answer; a stream sends it after its first chunk.
        break_after: Chunks of a stream before the connection is cut.
        chunk_delay_s: Wait before each chunk.
        finish_reason: Why the answer ends.
        headers: Sent with the answer.
    """

    text: str = "Hello from the upstream."
    status: int = 200
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "scripted failure", "type": "server_error"})
    hang_s: float = 0.0
    raw: bytes | None = None
    break_after: int | None = None
    chunk_delay_s: float = 0.0
    finish_reason: str = "stop"
    headers: Mapping[str, str] = field(default_factory=dict)


class Upstream:
    """Serves chat completions and embeddings under `/v1` on a free loopback port, from a thread, in its `with` block.

    Attributes:
        script: What it does with every request,
        scripts: but for those of these models.
        requests: The bodies it got, in order.
        headers: The headers of each request, their names in lower case.
        aborted: Streams whose client went away.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.scripts: dict[str, Script] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.aborted = 0
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """The base URL for a client, with `/v1`."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
        """Wait for what the server notices on its own time; False if it never does."""
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        return condition()

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        script = self.scripts.get(body["model"], self.script)
        await asyncio.sleep(script.hang_s)
        if script.status != 200:
            return web.json_response({"error": dict(script.error)}, status=script.status, headers=script.headers)
        if body.get("stream"):
            return await self._stream(request, body, script)
        if script.raw is not None:
            return web.Response(body=script.raw, content_type="application/json", headers=script.headers)
        return web.json_response(_completion(body, script), headers=script.headers)

    async def _embeddings(self, request: web.Request) -> web.Response:
        """Give each text a vector that hangs on it alone, last text first, as the API may."""
        body = await request.json()
        self.requests.append(body)
        if self.script.status != 200:
            return web.json_response({"error": dict(self.script.error)}, status=self.script.status)
        words = sum(len(text.split()) for text in body["input"])
        usage = {"prompt_tokens": words, "total_tokens": words}
        rows = []
        for i, text in reversed(list(enumerate(body["input"]))):
            digest = hashlib.blake2b(text.encode(), digest_size=body["dimensions"]).digest()
            vector = struct.pack(f"<{len(digest)}f", *digest)
            rows.append({"object": "embedding", "index": i, "embedding": base64.b64encode(vector).decode()})
        return web.json_response({"object": "list", "model": body["model"], "data": rows, "usage": usage})

    async def _stream(self, request: web.Request, body: dict[str, Any], script: Script) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **script.headers})
        await response.prepare(request)
        try:
            for sent, chunk in enumerate(_chunks(body, script)):
                await asyncio.sleep(script.chunk_delay_s)
                if sent == script.break_after:
                    assert request.transport
                    request.transport.abort()
                    return response
                if sent == 1 and script.raw is not None:
                    await response.write(b"data: " + script.raw + b"\n\n")
                await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        return response


def _completion(body: Mapping[str, Any], script: Script) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": script.text}
    finish_reason = script.finish_reason
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        function = body["tools"][0]["function"]["name"]
        arguments = json.dumps({"echo": body["messages"][-1]["content"]})
        call = {"id": "call_1", "type": "function", "function": {"name": function, "arguments": arguments}}
        message |= {"content": None, "tool_calls": [call]}
        finish_reason = "tool_calls"
    return {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": _usage(body, script.text),
    }


def _chunks(body: Mapping[str, Any], script: Script) -> list[dict[str, Any]]:
    """Cut the answer into a chunk per word, or per half of a tool call's arguments, as OpenAI does."""
    completion = _completion(body, script)
    head = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = completion["choices"][0]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for i, call in enumerate(choice["message"].get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        deltas.append({"tool_calls": [{"index": i, **call, "function": {**call["function"], "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}
            for piece in (arguments[:half], arguments[half:])
        ]
    deltas += [{"content": word} for word in re.findall(r"\S+\s*", choice["message"]["content"] or "")]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": completion["usage"]})
    return chunks


def _usage(body: Mapping[str, Any], text: str) -> dict[str, int]:
    """Count words as tokens."""
    prompt = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    answer = len(text.split())
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
