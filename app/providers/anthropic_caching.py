"""Prompt caching: where a request to Anthropic is marked, so that the next one finds its beginning in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_CHARS_A_TOKEN = 4
_IMAGE_CHARS = 4000  # as many as its tokens would have; a document's are not fewer
_MARK = {"type": "ephemeral"}


def mark(params: dict[str, Any], from_tokens: int) -> None:
    """Mark the ends of what later requests are likely to begin with: tools, system prompt, all but the last exchange.

    The API caches up to a mark, in this order. The last turn is not marked: most conversations have but one, and
    what is written to the cache costs more than what is not. The turn before is marked, so that a conversation reads
    what its last request wrote, and writes what has come since.

    Args:
        params: Of a request, with blocks as contents; marks are set in them.
        from_tokens: What ends before so many tokens is not marked.
    """
    tools, system = params.get("tools") or [], params.get("system") or []
    chars = sum(len(msgspec.json.encode(tool)) for tool in tools)
    _mark(tools, chars, from_tokens)
    chars += sum(map(_chars, system))
    _mark(system, chars, from_tokens)
    turns = params["messages"]
    users = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    if len(users) > 1:
        before = turns[: users[-2] + 1]
        chars += sum(_chars(block) for turn in before for block in turn["content"])
        _mark(before[-1]["content"], chars, from_tokens)


def _mark(blocks: list[dict[str, Any]], chars: int, from_tokens: int) -> None:
    if blocks and chars >= from_tokens * _CHARS_A_TOKEN:
        blocks[-1]["cache_control"] = _MARK


def _chars(block: Mapping[str, Any]) -> int:
    match block["type"]:
        case "text":
            return len(block["text"])
        case "tool_use":
            return len(msgspec.json.encode(block["input"]))
        case "tool_result":
            return sum(map(_chars, block.get("content", ())))
        case _:
            return _IMAGE_CHARS
