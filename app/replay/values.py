"""What the cells of logs hold, read for what it means: times, numbers, messages, answers, token counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from app.replay.files import BadLineError

_ROLES = {"human": "user", "ai": "assistant", "bot": "assistant", "model": "assistant"}
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # a Unix time above the first has so many units in a second
_FIRST, _LAST = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2000, 2100))
_MOST_TOKENS = 2**24  # a count from here on is a mistake


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens; None for what is not said."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    written: int | None = None  # of the prompt, into the provider's cache


def messages_of(asked: Any) -> list[dict[str, Any]]:
    """Return the messages of what was asked: messages, in a field or plain, or one text."""
    asked = decoded(asked)
    if isinstance(asked, dict):
        asked = asked.get("messages", [asked] if "content" in asked else None)
    if isinstance(asked, str) and asked.strip():
        return [{"role": "user", "content": asked}]
    if not isinstance(asked, list) or not asked:
        raise BadLineError("no messages and no prompt")
    messages = []
    for message in asked:
        content = message.get("content") if isinstance(message, dict) else None
        parts = isinstance(content, list) and all(isinstance(part, dict) for part in content)
        if not isinstance(message, dict) or not (parts or content is None or isinstance(content, str)):
            raise BadLineError("a message without a readable content")
        role = str(message.get("role") or message.get("type") or "user")
        messages.append({**message, "role": _ROLES.get(role, role)})
    return messages


def completion_of(said: Any) -> dict[str, Any] | None:
    """Return an answer, in whatever form it is logged, in OpenAI's; None where there is none."""
    said = decoded(said)
    if isinstance(said, list):  # messages, of which the last is the answer
        said = said[-1] if said else None
    if isinstance(said, dict):
        choices = said.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict) and choices[0].get("message"):
            return said
        if isinstance(said.get("output"), list):  # of the Responses API
            said = {"content": [part for item in said["output"] for part in item.get("content") or ()]}
    message = {"role": "assistant", **said} if isinstance(said, dict) else {"role": "assistant", "content": said}
    if isinstance(message.get("content"), list):
        texts = [part.get("text") for part in message["content"] if isinstance(part, dict)]
        message["content"] = "\n".join(text for text in texts if isinstance(text, str))
    if not (isinstance(message.get("content"), str) and message["content"]) and not message.get("tool_calls"):
        return None
    kept = {key: message[key] for key in ("role", "content", "tool_calls", "refusal") if key in message}
    return {"choices": [{"index": 0, "message": kept, "finish_reason": "stop"}]}


def counts_of(usage: Any) -> Counts:
    """Read token counts by the names that providers and logs have for them."""
    if not isinstance(usage, Mapping):
        return Counts()
    prompt = number(first(usage, "prompt_tokens", "promptTokens"))
    cached = number(first(usage, "cached_tokens", "prompt_cache_read_tokens"))
    written = number(first(usage, "cache_write_tokens", "cache_creation_input_tokens", "prompt_cache_write_tokens"))
    details = decoded(usage.get("prompt_tokens_details")) or decoded(usage.get("input_tokens_details"))
    if isinstance(details, dict):
        cached = number(details.get("cached_tokens")) if cached is None else cached
        written = number(details.get("cache_write_tokens")) if written is None else written
    if prompt is None and (fresh := number(usage.get("input_tokens"))) is not None:
        # Anthropic counts the cached ones beside, OpenAI's Responses API among them
        beside = [number(usage.get(name)) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens")]
        prompt, cached = fresh + sum(beside), cached or beside[0]
    completion = number(first(usage, "completion_tokens", "completionTokens", "output_tokens"))
    counts = (prompt, completion, cached, written)
    return Counts(*(int(count) if count is not None and 0 <= count < _MOST_TOKENS else None for count in counts))


def latency_of(row: Mapping[str, Any]) -> float | None:
    """Read a latency in seconds, by the names that logs have for it."""
    seconds = number(first(row, "latency_s", "duration_s", "elapsed_s", "response_time"))
    milliseconds = number(first(row, "latency_ms", "duration_ms", "elapsed_ms", "response_ms"))
    return milliseconds / 1000 if seconds is None and milliseconds is not None else seconds


def succeeded(status: Any) -> bool:
    """Read a status: a number of HTTP, or a word."""
    code = number(status)
    if code is not None:
        return 100 <= code < 400
    return str(status or "ok").lower() not in ("failure", "failed", "fail", "error", "timeout", "false", "cancelled")


def unix_time(value: Any) -> float | None:
    """Read a Unix time, from seconds to nanoseconds, or a date and time; one without a zone is UTC.

    Returns:
        Seconds; None for none, and for one before 2000 or from 2100 on, such as the 0 of a field that was never set.

    Raises:
        BadLineError: It is a text of no form that we know.
    """
    seconds = _seconds(value)
    return seconds if seconds is not None and _FIRST <= seconds < _LAST else None


def _seconds(value: Any) -> float | None:
    stamp = number(value)
    if stamp is not None:
        return stamp / next((units for least, units in _UNITS if stamp > least), 1.0)
    if isinstance(value, str) and value.strip():
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise BadLineError("a time that cannot be read") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return None


def number(value: Any) -> float | None:
    """Read a finite number; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        read = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def decoded(value: Any) -> Any:
    """Decode a field that holds JSON as a text, as the cells of a CSV do; any other value stays as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


def option(value: Any) -> Any:
    """Read an option of a request that may be the text of a CSV's cell: a number, or JSON."""
    if not isinstance(value, str):
        return value
    read = number(value)
    if read is None:
        return decoded(value)
    return int(read) if read.is_integer() else read


def first(row: Any, *names: str) -> Any:
    """Return the first of some fields that holds anything."""
    if not isinstance(row, Mapping):
        return None
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def inside(value: Any, name: str) -> Any:
    """Return a field of what may be no object."""
    return value.get(name) if isinstance(value, Mapping) else None
