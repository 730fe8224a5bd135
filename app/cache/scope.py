"""Which requests may share an answer: the scope, and the text that is matched within it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from app.schema import CacheKey, ChatRequest
from app.wire import message_text

# Fields that change how an answer is delivered or billed, not what it says. Every other field, known to us or
# not, is part of the scope, so that an option invented tomorrow can cost a hit but never a wrong answer.
_NEUTRAL = frozenset(
    {
        "messages",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)


def request_key(request: ChatRequest, space: str = "") -> CacheKey:
    """Fingerprint a request in the shape of its profile, as `cache_key` does.

    A limit that is raised for an answer that it cuts is the raised one, which a stream has from the start.
    """
    raised = request.raised_max_tokens
    body = request.body if raised is None else {**request.body, "max_tokens": raised}
    return cache_key(body, request.tenant, space, request.tiers)


def cache_key(body: Mapping[str, Any], tenant: str, space: str = "", tiers: Collection[str] = ()) -> CacheKey:
    """Fingerprint a request.

    The scope covers the tenant, the model asked for, the system prompt, earlier turns, tools, `response_format`
    and every sampling parameter; the text is that of the last turn. Only a user's turn is matched by meaning:
    the result of a tool is matched exactly, and so are texts between images, since they belong to their places.

    Two requests that are the same JSON have the same key, in whatever order their fields come; a field that is null is
    one that is not there, and a parameter of 1.0 is one of 1.

    Args:
        space: Keeps requests apart from those of another.
        tiers: The only ones that may answer, in any order; empty for all.
    """
    *earlier, last = _with_calls_by_order(body["messages"])
    text = message_text(last)
    options = {key: _number(value) for key, value in body.items() if key not in _NEUTRAL and value is not None}
    frame, mixed = _frame(last)
    apart = [*([space] if space else []), *([sorted(set(tiers))] if tiers else [])]
    scope = _digest([tenant, options, earlier, frame, *apart])
    entry = _digest(unicodedata.normalize("NFC", text).strip())
    return CacheKey(scope, entry, text, semantic=last["role"] == "user" and bool(text.strip()) and not mixed)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_calls_by_order(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copy messages, their calls of tools named by the order in which they come.

    An id is made anew with each call and says no more than which result is whose; with the ids themselves no second run
    of a conversation would ever find the answers of the first.
    """
    names: dict[Any, str] = {}
    copies = [{key: value for key, value in message.items() if value is not None} for message in messages]
    for message in copies:
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [{**call, "id": _name(call.get("id"), names)} for call in calls]
        if "tool_call_id" in message:
            message["tool_call_id"] = _name(message["tool_call_id"], names)
    return copies


def _name(call_id: Any, names: dict[Any, str]) -> Any:
    return names.setdefault(call_id, f"call {len(names)}") if isinstance(call_id, str) else call_id


def _frame(message: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return all of a message but its text: who speaks, and images or files in their places.

    Texts between other parts stay in the frame, which the flag says: joined, they would no longer tell their places.
    """
    parts = _parts(message.get("content"))
    texts = sum(isinstance(part.get("text"), str) for part in parts)
    mixed = 1 < texts < len(parts)
    blank = [{**part, "text": ""} if isinstance(part.get("text"), str) and not mixed else part for part in parts]
    return {**message, "content": blank}, mixed


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": ""}] if isinstance(content, str) else list(content or ())


def _digest(value: Any) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=16).hexdigest()
