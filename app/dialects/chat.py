"""OpenAI's Chat Completions, the gateway's own tongue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from app.errors import GatewayError
from app.wire import error_body, parse_body


class ChatDialect:
    """Requests and answers pass as they are."""

    done: ClassVar[bytes] = b"data: [DONE]\n\n"

    def __init__(self, raw: bytes) -> None:
        self.body = parse_body(raw)
        self._with_usage = bool((self.body.get("stream_options") or {}).get("include_usage"))

    def answer(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Return the completion."""
        return dict(completion)

    def events(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the chunks, without the usage that the gateway asked for and the client did not."""
        for chunk in chunks:
            if self._with_usage:
                yield chunk
            elif chunk.get("choices"):
                yield {key: value for key, value in chunk.items() if key != "usage"}

    def end(self) -> Iterator[dict[str, Any]]:
        """Say nothing: the last chunk has the reason."""
        return iter(())

    def failed(self, error: GatewayError) -> dict[str, Any]:
        """Return OpenAI's error object."""
        return error_body(error)
