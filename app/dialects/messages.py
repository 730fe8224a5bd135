"""Anthropic's Messages, as a chat completion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from app.dialects.anthropic import STOP_REASONS, message_id, tool_input
from app.dialects.blocks import Block, Reading, Step
from app.dialects.messages_request import read_messages
from app.errors import GatewayError

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesDialect:
    """Anthropic's Messages."""

    done: ClassVar[bytes] = b""

    def __init__(self, raw: bytes) -> None:
        self.body, self._stop_sequences = read_messages(raw)
        self._reading = Reading()

    def answer(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message."""
        reading = Reading.of(completion)
        content = [_content(block) for block in reading.blocks]
        return {**_message(reading), "content": content, **self._stop(reading), "usage": _usage(reading)}

    def events(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the events of the next chunks; the first opens the message."""
        for chunk in chunks:
            begun = bool(self._reading.head)
            steps = list(self._reading.add(chunk))
            if not begun:
                yield {"type": "message_start", "message": _message(self._reading)}
            for step in steps:
                yield _event(step)

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield why the message ended, with its usage."""
        for step in self._reading.close():
            yield _event(step)
        yield {"type": "message_delta", "delta": self._stop(self._reading), "usage": _usage(self._reading)}
        yield {"type": "message_stop"}

    def failed(self, error: GatewayError) -> dict[str, Any]:
        """Return Anthropic's error object."""
        return message_error(error.message, error.status_code)

    def _stop(self, reading: Reading) -> dict[str, Any]:
        """Say why a message ended; which sequence did it not every provider tells, and then it is an end of turn."""
        reason = STOP_REASONS.get(reading.finish_reason, "tool_use" if reading.called() else "end_turn")
        if any(block.kind == "refusal" for block in reading.blocks):
            reason = "refusal"
        if reason == "end_turn" and reading.stopped_by in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": reading.stopped_by}
        return {"stop_reason": reason, "stop_sequence": None}


def message_error(message: str, status: int) -> dict[str, Any]:
    """Return Anthropic's error object."""
    return {"type": "error", "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}}


def _message(reading: Reading) -> dict[str, Any]:
    """Return a message that is still empty."""
    return {
        "id": message_id(str(reading.head.get("id"))),
        "type": "message",
        "role": "assistant",
        "model": reading.head.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _content(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": tool_input(block.text)}
    return {"type": "text", "text": block.text}


def _event(step: Step) -> dict[str, Any]:
    kind, block, piece = step
    if kind == "start":
        empty = _content(Block(block.kind, block.index, block.call_id, block.name))
        return {"type": "content_block_start", "index": block.index, "content_block": empty}
    if kind == "stop":
        return {"type": "content_block_stop", "index": block.index}
    if block.kind == "call":
        delta = {"type": "input_json_delta", "partial_json": piece}
    else:
        delta = {"type": "text_delta", "text": piece}
    return {"type": "content_block_delta", "index": block.index, "delta": delta}


def _usage(reading: Reading) -> dict[str, int]:
    """Count the tokens; Anthropic's input tokens are those that were neither cached nor put there."""
    read, cached, stored, written = reading.tokens()
    return {
        "input_tokens": read - cached - stored,
        "cache_creation_input_tokens": stored,
        "cache_read_input_tokens": cached,
        "output_tokens": written,
    }
