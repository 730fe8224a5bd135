"""What may be served from the cache, and what may be stored in it."""

from __future__ import annotations

from typing import Any

import msgspec

from app.cache.refusals import refused
from app.cache.semantic import CacheConfig
from app.cache.volatile import uncacheable
from app.schema import ChatRequest, Completion


def lookup_refusal(request: ChatRequest, config: CacheConfig) -> str | None:
    """Return why a request must not be served from the cache, or None if it may."""
    return _private(request, config) if request.lookup else "cache-control"


def _private(request: ChatRequest, config: CacheConfig) -> str | None:
    """Return why the answer to a request is for itself alone."""
    if (request.body.get("temperature") or 0) > config.max_temperature:
        return "temperature"
    return uncacheable(request.prompt, config.uncacheable)


def storable(request: ChatRequest, completion: Completion, config: CacheConfig) -> bool:
    """Whether an answer may serve others: whole, unrefused, with tool calls only where they are kept."""
    return (
        request.store
        and _private(request, config) is None
        and bool(completion.body.get("choices"))
        and all(_whole(choice, config.tool_calls) for choice in completion.body["choices"])
    )


def _whole(choice: dict[str, Any], tool_calls: bool) -> bool:
    message = choice["message"]
    if message.get("refusal"):
        return False
    if calls := message.get("tool_calls"):
        # "stop" where the request named the function to call
        return tool_calls and choice.get("finish_reason") in ("tool_calls", "stop") and all(map(_callable, calls))
    text = message.get("content") or ""
    return choice.get("finish_reason") == "stop" and bool(text.strip()) and not refused(text)


def _callable(call: dict[str, Any]) -> bool:
    """Whether a call names a function and its arguments are JSON: a broken one must not be replayed for a day."""
    try:
        function = call["function"]
        return bool(call["id"] and function["name"]) and isinstance(msgspec.json.decode(function["arguments"]), dict)
    except (KeyError, TypeError, msgspec.DecodeError):
        return False
