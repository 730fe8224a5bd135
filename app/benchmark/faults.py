"""What goes wrong at a scripted upstream, at a set rate: the faults that providers have."""

from __future__ import annotations

import asyncio
import math
import random
import zlib
from collections import Counter
from contextlib import suppress

import msgspec
from aiohttp import web

KINDS = ("error", "rate limit", "hang", "drip", "cut", "malformed", "content type")
_MEDIAN_S = 0.25
_SPREAD = 0.5


class FaultyUpstream:
    """Answers each prompt with a text of its own, after a while that is drawn at random; or fails.

    Args:
        rate: Share of the calls that fail, each kind as often as the others.

    Attributes:
        calls: By the kind of the fault, `none` among them.
        under_way: Calls that are not over.
    """

    def __init__(self, rate: float, seed: int = 0) -> None:
        self._rate = rate
        self._draw = random.Random(seed)
        self.calls: Counter[str] = Counter()
        self.under_way = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer, or fail."""
        kind, wait_s = self._next()
        self.calls[kind] += 1
        self.under_way += 1
        try:
            body = msgspec.json.decode(await request.read())
            await asyncio.sleep(wait_s)
            if refusal := await self._refusal(kind):
                return refusal
            return await self._answer(request, body, kind)
        finally:
            self.under_way -= 1

    async def state(self, _: web.Request) -> web.Response:
        """Say what was called, and what still is."""
        return web.json_response({"calls": dict(self.calls), "under_way": self.under_way})

    def _next(self) -> tuple[str, float]:
        """Draw what the next call comes to, and after how long."""
        kind = self._draw.choice(KINDS) if self._draw.random() < self._rate else "none"
        return kind, self._draw.lognormvariate(math.log(_MEDIAN_S), _SPREAD)

    async def _refusal(self, kind: str) -> web.Response | None:
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "error":
            return web.json_response({"error": {"message": "scripted failure", "type": "server_error"}}, status=500)
        if kind == "rate limit":
            error = {"message": "scripted limit", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
            return web.json_response({"error": error}, status=429, headers={"retry-after": "1"})
        if kind == "content type":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        return None

    async def _pause(self, kind: str, done: float) -> None:
        """Wait after a piece of an answer, of which such a share is done."""
        await asyncio.sleep(0.4 if kind == "drip" else 0.005)

    async def _answer(self, request: web.Request, body: dict[str, object], kind: str) -> web.StreamResponse:
        pieces = _events(body) if body.get("stream") else _halves(msgspec.json.encode(_completion(body)))
        if kind == "malformed":
            pieces = [piece.replace(b'"choices"', b'"choices', 1) for piece in pieces]
        content_type = "text/event-stream" if body.get("stream") else "application/json"
        response = web.StreamResponse(headers={"content-type": content_type})
        with suppress(ConnectionResetError):  # who asked was killed, or has gone
            await response.prepare(request)
            for i, piece in enumerate(pieces):
                if kind == "cut" and i == max(1, len(pieces) // 2):
                    assert request.transport
                    request.transport.abort()
                    return response
                await response.write(piece)
                await self._pause(kind, i / len(pieces))
            await response.write_eof()
        return response


class HeldUpstream(FaultyUpstream):
    """Never fails, but waits in each answer until it is released.

    In the middle; of every other stream already before its first piece.
    """

    def __init__(self) -> None:
        super().__init__(0.0)
        self._released = asyncio.Event()

    async def hold(self, _: web.Request) -> web.Response:
        """Wait in the answers from now on."""
        self._released.clear()
        return web.json_response({})

    async def release(self, _: web.Request) -> web.Response:
        """Go on with all answers, and answer at once from now on."""
        self._released.set()
        return web.json_response({})

    async def _answer(self, request: web.Request, body: dict[str, object], kind: str) -> web.StreamResponse:
        if body.get("stream") and zlib.crc32(_prompt(body).encode()) % 2:
            await self._released.wait()
        return await super()._answer(request, body, kind)

    async def _pause(self, kind: str, done: float) -> None:
        if done >= 0.5:
            await self._released.wait()


def answer_to(prompt: str) -> str:
    """Return the text by which the upstream answers a prompt."""
    return f"The scripted answer to «{prompt}» is this, in some ten words more."


def _prompt(body: dict[str, object]) -> str:
    messages: list[dict[str, str]] = body["messages"]  # type: ignore[assignment]
    return messages[-1]["content"]


def _completion(body: dict[str, object]) -> dict[str, object]:
    message = {"role": "assistant", "content": answer_to(_prompt(body))}
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40},
    }


def _events(body: dict[str, object]) -> list[bytes]:
    head = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    words = answer_to(_prompt(body)).split(" ")
    deltas: list[dict[str, str]] = [{"content": word + " " * (i < len(words) - 1)} for i, word in enumerate(words)]
    choices: list[dict[str, object]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunks: list[dict[str, object]] = [{**head, "choices": [choice]} for choice in choices]
    chunks.append({**head, "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40}})
    return [*(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def _halves(body: bytes) -> list[bytes]:
    size = max(1, len(body) // 20)
    return [body[i : i + size] for i in range(0, len(body), size)]
