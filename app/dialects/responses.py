"""OpenAI's Responses, as a chat completion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from app.dialects.blocks import Block, Reading, Step
from app.dialects.responses_request import read_response
from app.errors import GatewayError
from app.wire import decode, error_body

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What a response repeats of its request, and what it says where the request says nothing.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "user": None,
}
_FIXED = {"background": False, "error": None, "previous_response_id": None, "store": False, "truncation": "disabled"}


class ResponsesDialect:
    """OpenAI's Responses. Nothing is stored, so that each request brings the whole conversation."""

    done: ClassVar[bytes] = b""

    def __init__(self, raw: bytes) -> None:
        self._asked = decode(raw)
        self.body = read_response(self._asked)
        self._reading = Reading()
        self._sent = 0

    def answer(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response."""
        return self._ended(Reading.of(completion))

    def events(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the events of the next chunks; the first creates the response."""
        for chunk in chunks:
            begun = bool(self._reading.head)
            steps = list(self._reading.add(chunk))
            if not begun:
                begin = {**self._begun(self._reading), "status": "in_progress", "output": [], "usage": None}
                yield self._numbered({"type": "response.created", "response": begin})
                yield self._numbered({"type": "response.in_progress", "response": begin})
            for step in steps:
                yield from self._step(step)

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield the whole response; one that was cut off ends with `response.incomplete`, as OpenAI's do."""
        response = self._ended(self._reading)
        for step in self._reading.close():
            yield from self._step(step, response["status"])
        yield self._numbered({"type": f"response.{response['status']}", "response": response})

    def failed(self, error: GatewayError) -> dict[str, Any]:
        """Return OpenAI's error event, as documented and, for clients that look there, with the error object in it."""
        body = error_body(error)
        return self._numbered({**body["error"], "type": "error", **body})

    def _begun(self, reading: Reading) -> dict[str, Any]:
        asked = {
            name: default if (given := self._asked.get(name)) is None else given for name, default in _REPEATED.items()
        }
        return {
            "id": f"resp_{_suffix(reading)}",
            "object": "response",
            "created_at": reading.head.get("created"),
            "model": reading.head.get("model"),
            **_FIXED,
            **asked,
            "incomplete_details": None,
        }

    def _ended(self, reading: Reading) -> dict[str, Any]:
        reason = _INCOMPLETE.get(reading.finish_reason)
        status = "incomplete" if reason else "completed"
        return {
            **self._begun(reading),
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": [
                _item(block, _suffix(reading), status if block is reading.blocks[-1] else "completed")
                for block in reading.blocks
            ],
            "usage": _usage(reading),
        }

    def _step(self, step: Step, status: str = "completed") -> Iterator[dict[str, Any]]:
        for event in _events(step, _suffix(self._reading), status):
            yield self._numbered(event)

    def _numbered(self, event: dict[str, Any]) -> dict[str, Any]:
        self._sent += 1
        return {**event, "sequence_number": self._sent - 1}


def _suffix(reading: Reading) -> str:
    """Return what the ids of a response and of its items have in common."""
    return str(reading.head.get("id")).removeprefix("chatcmpl-")


def _item(block: Block, suffix: str, status: str) -> dict[str, Any]:
    if block.kind == "call":
        call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
        return {"id": f"fc_{suffix}_{block.index}", "type": "function_call", "status": status, **call}
    message = {"id": f"msg_{suffix}_{block.index}", "type": "message", "role": "assistant", "status": status}
    return {**message, "content": [] if status == "in_progress" else [_part(block, block.text)]}


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(step: Step, suffix: str, status: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a step, which differ by what the block is; `status` is that of a block that stops."""
    kind, block, piece = step
    place = {"item_id": _item(block, suffix, "in_progress")["id"], "output_index": block.index}
    if block.kind == "call":
        name, within, whole = "function_call_arguments", place, {"arguments": block.text, "name": block.name}
    elif block.kind == "refusal":
        name, within, whole = "refusal", {**place, "content_index": 0}, {"refusal": block.text}
    else:
        within = {**place, "content_index": 0, "logprobs": []}
        name, whole = "output_text", {"text": block.text}

    if kind == "grow":
        yield {"type": f"response.{name}.delta", **within, "delta": piece}
    elif kind == "start":
        item = _item(Block(block.kind, block.index, block.call_id, block.name), suffix, "in_progress")
        yield {"type": "response.output_item.added", "output_index": block.index, "item": item}
        if block.kind != "call":
            yield {"type": "response.content_part.added", **place, "content_index": 0, "part": _part(block, "")}
    else:
        yield {"type": f"response.{name}.done", **within, **whole}
        if block.kind != "call":
            yield {"type": "response.content_part.done", **place, "content_index": 0, "part": _part(block, block.text)}
        item = _item(block, suffix, status)
        yield {"type": "response.output_item.done", "output_index": block.index, "item": item}


def _usage(reading: Reading) -> dict[str, Any]:
    read, cached, stored, written = reading.tokens()
    thought = (reading.usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": stored},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }
