"""Which requests may share an answer: the scope, and the text that is matched within it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec

from app.schema import CacheKey
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


def cache_key(body: Mapping[str, Any], tenant: str) -> CacheKey:
    """Fingerprint a request.

    The scope covers the tenant, the model asked for, the system prompt, earlier turns, tools, `response_format`
    and every sampling parameter; the text is that of the last turn. Only a user's turn is matched by meaning:
    the result of a tool is matched exactly.
    """
    *earlier, last = body["messages"]
    text = message_text(last)
    options = {key: value for key, value in body.items() if key not in _NEUTRAL and value is not None}
    scope = _digest([tenant, options, earlier, _frame(last)])
    entry = _digest(unicodedata.normalize("NFC", text).strip())
    return CacheKey(scope, entry, text, semantic=last["role"] == "user" and bool(text.strip()))


def _frame(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a message but its text: who speaks, and images or files in their places."""
    content = message.get("content")
    parts = [part if not isinstance(part.get("text"), str) else {**part, "text": ""} for part in _parts(content)]
    return {**message, "content": parts}


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": ""}] if isinstance(content, str) else list(content or ())


def _digest(value: Any) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=16).hexdigest()
