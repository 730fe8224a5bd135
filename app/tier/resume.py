"""Going on with a stream that broke off, by a second answer that begins as the first did."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from app.errors import UpstreamError
from app.schema import StreamPart


async def resuming(
    body: Mapping[str, Any], ask: Callable[[], AsyncGenerator[StreamPart, None]]
) -> AsyncGenerator[StreamPart, None]:
    """Pass on a stream. One that breaks off is asked for once more where the request is deterministic.

    Raises:
        UpstreamError: It broke off, and no second answer goes on with it.
    """
    sent = _SentText()
    again = _deterministic(body)
    while True:
        try:
            async with aclosing(ask()) as parts:
                async for part in parts:
                    if (rest := sent.unsent(part)) is not None:
                        yield rest
            return
        except UpstreamError:
            if not (again and sent.begun):
                raise
            again = False
            sent.rewind()


def _deterministic(body: Mapping[str, Any]) -> bool:
    """Whether a second answer is likely to begin as the first: one choice, of text, at temperature 0 or with a seed."""
    deterministic = body.get("temperature") == 0 or body.get("seed") is not None
    return deterministic and (body.get("n") or 1) == 1 and not body.get("tools") and not body.get("logprobs")


class _SentText:
    """The text that a client has been sent, and what of a second answer is new to it.

    Attributes:
        begun: Whether anything was sent.
    """

    def __init__(self) -> None:
        self.begun = False
        self._text = ""
        self._seen: int | None = None  # of the second answer, until it has caught up

    def rewind(self) -> None:
        """Begin a second answer."""
        self._seen = 0

    def unsent(self, part: StreamPart) -> StreamPart | None:
        """Return what of a part the client does not have yet; None if there is nothing.

        Raises:
            UpstreamError: The second answer is another one.
        """
        if self._seen is None:
            self.begun = True
            self._text += "".join(map(_text, part.chunks))
            return part
        chunks = [chunk for chunk in map(self._new, part.chunks) if chunk is not None]
        return StreamPart(chunks, part.target) if chunks else None

    def _new(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        text, seen = _text(chunk), self._seen or 0
        if seen >= len(self._text):
            return chunk
        known = self._text[seen : seen + len(text)]
        ended = any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
        if not text.startswith(known) or (ended and seen + len(text) < len(self._text)):
            raise UpstreamError("the stream broke off, and a second answer is another one", "resume", passes=False)
        self._seen = seen + len(text)
        if len(text) <= len(known):
            return None
        (choice,) = chunk["choices"]
        delta = {**choice["delta"], "content": text[len(known) :]}
        return {**chunk, "choices": [{**choice, "delta": delta}]}


def _text(chunk: Mapping[str, Any]) -> str:
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices") or ())
