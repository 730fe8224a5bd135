"""Going on with a stream that broke off, by a second answer that begins as the first did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from app.errors import RestingError, UpstreamError
from app.schema import StreamPart

_ATTEMPTS = 3
_LONGEST_REST_S = 10.0  # of all that a stream waits for targets that rest
_REST_S = 0.5  # of one whose end is not known


async def resuming(
    body: Mapping[str, Any],
    ask: Callable[[], AsyncGenerator[StreamPart, None]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[StreamPart, None]:
    """Pass on a stream. One that breaks off is asked for again, twice at most, where the request is deterministic.

    Targets that rest are waited for, some seconds.

    Raises:
        UpstreamError: It broke off, and no other answer goes on with it.
    """
    sent = _SentText()
    attempts = _ATTEMPTS if _deterministic(body) else 1
    patience_s = _LONGEST_REST_S
    while True:
        try:
            async with aclosing(ask()) as parts:
                async for part in parts:
                    if (rest := sent.unsent(part)) is not None:
                        yield rest
            return
        except RestingError as error:  # nothing was asked
            pause_s = error.retry_after_s or _REST_S
            patience_s -= pause_s
            if not sent.begun or patience_s < 0:
                raise
            await sleep(pause_s)
            sent.rewind()
        except UpstreamError as error:
            attempts -= 1
            if not (attempts and sent.begun and error.passes):
                raise
            sent.rewind()


def _deterministic(body: Mapping[str, Any]) -> bool:
    """Whether a second answer is likely to begin as the first: one choice, of text, at temperature 0 or with a seed."""
    deterministic = body.get("temperature") == 0 or body.get("seed") is not None
    return deterministic and (body.get("n") or 1) == 1 and not body.get("tools") and not body.get("logprobs")


class _SentText:
    """The text that a client has been sent, and what of another answer is new to it.

    Attributes:
        begun: Whether anything was sent.
    """

    def __init__(self) -> None:
        self.begun = False
        self._text = ""
        self._seen = 0  # of it, in the answer that is read now

    def rewind(self) -> None:
        """Begin another answer."""
        self._seen = 0

    def unsent(self, part: StreamPart) -> StreamPart | None:
        """Return what of a part the client does not have yet; None if there is nothing.

        Raises:
            UpstreamError: The other answer is a different one.
        """
        self.begun = True
        chunks = [chunk for chunk in map(self._new, part.chunks) if chunk is not None]
        return replace(part, chunks=chunks) if chunks else None

    def _new(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        text = _text(chunk)
        known = self._text[self._seen : self._seen + len(text)]
        caught_up = self._seen == len(self._text)
        ended = any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
        self._seen += len(text)
        if not text.startswith(known) or (ended and self._seen < len(self._text)):
            raise UpstreamError("the stream broke off, and another answer begins otherwise", "resume", passes=False)
        new = text[len(known) :]
        self._text += new
        if caught_up:
            return chunk
        if not new:
            return None
        (choice,) = chunk["choices"]
        return {**chunk, "choices": [{**choice, "delta": {**choice["delta"], "content": new}}]}


def _text(chunk: Mapping[str, Any]) -> str:
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices") or ())
