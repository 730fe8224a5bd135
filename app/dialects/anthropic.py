"""What Anthropic's Messages and chat completions say differently: shared by the translations of both directions."""

from __future__ import annotations

import json
import re
from typing import Any

# Why an answer ended: what `finish_reason` and `stop_reason` are to each other.
STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}
FINISH_REASONS = {
    **{theirs: ours for ours, theirs in STOP_REASONS.items()},
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "model_context_window_exceeded": "length",
}
TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}  # a chat completion's to Anthropic's `type`
_DATA_URL = re.compile(r"data:([\w.+/-]+)(?:;[\w=.-]+)*;base64,")


def message_id(completion_id: str) -> str:
    """Return a message's name for a completion's."""
    return "msg_" + completion_id.removeprefix("chatcmpl-")


def completion_id(message_id: str) -> str:
    """Return a completion's name for a message's."""
    return "chatcmpl-" + message_id.removeprefix("msg_")


def tool_input(arguments: str) -> dict[str, Any]:
    """Read the arguments of a call; what a weak model wrote that is no JSON object goes under a name of its own."""
    try:
        read = json.loads(arguments or "{}")
    except ValueError:
        read = arguments
    return read if isinstance(read, dict) else {"malformed_arguments": arguments}


def data_url(media_type: str, data: str) -> str:
    """Return the URL that holds what is encoded in base64."""
    return f"data:{media_type};base64,{data}"


def source(url: str) -> dict[str, str] | None:
    """Return a URL as the source of a block; None for a data URL that is not in base64."""
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    match = _DATA_URL.match(url)
    return {"type": "base64", "media_type": match[1], "data": url[match.end() :]} if match else None
