"""Messages and events as Anthropic's API sends them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any


def message(body: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Answer a request: with a text, or a call of its first tool where it has any and its last turn is no result."""
    last = body["messages"][-1]["content"]
    said = last if isinstance(last, str) else " ".join(block.get("text", "") for block in last)
    answered = not isinstance(last, str) and last[0]["type"] == "tool_result"
    content: dict[str, Any] = {"type": "text", "text": text}
    if body.get("tools") and not answered:
        content = {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"], "input": {"echo": said}}
    return {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [content],
        "stop_reason": "tool_use" if content["type"] == "tool_use" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": len(said.split()), "output_tokens": len(text.split())},
    }


def events(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cut a message into the events of a stream, a delta per word or per half of a call's input."""
    usage = message["usage"]
    opened = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    ending = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details") if name in message}
    blocks = [event for i, block in enumerate(message["content"]) for event in _block(i, block)]
    return [
        {"type": "message_start", "message": opened},
        {"type": "ping"},
        *blocks,
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": usage["output_tokens"]}},
        {"type": "message_stop"},
    ]


def _block(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    empty, deltas = _cut(block)
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _cut(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        pieces = re.findall(r"\S+\s*", block["text"])
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
    if block["type"] == "thinking":
        return {**block, "thinking": ""}, [{"type": "thinking_delta", "thinking": block["thinking"]}]
    text = json.dumps(block["input"]) if block["input"] else ""
    halves = (text[: len(text) // 2], text[len(text) // 2 :])
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": half} for half in halves]
