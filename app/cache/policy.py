"""What may be served from the cache, and what may be stored in it."""

from __future__ import annotations

from typing import Any

from app.cache.semantic import CacheConfig
from app.schema import ChatRequest, Completion


def lookup_refusal(request: ChatRequest, config: CacheConfig) -> str | None:
    """Return why a request must not be served from the cache, or None if it may."""
    if not request.lookup:
        return "cache-control"
    if (request.body.get("temperature") or 0) > config.max_temperature:
        return "temperature"
    return None


def storable(request: ChatRequest, completion: Completion, config: CacheConfig) -> bool:
    """Whether an answer may serve others: whole, unrefused text without tool calls, to a request that allows it."""
    return (
        request.store
        and (request.body.get("temperature") or 0) <= config.max_temperature
        and bool(completion.body.get("choices"))
        and all(_whole(choice) for choice in completion.body["choices"])
    )


def _whole(choice: dict[str, Any]) -> bool:
    message = choice["message"]
    return (
        choice.get("finish_reason") == "stop"
        and bool((message.get("content") or "").strip())
        and not message.get("tool_calls")
        and not message.get("refusal")
    )
