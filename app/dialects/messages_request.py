"""A request of Anthropic's Messages, as a chat completion's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from app.dialects.anthropic import TOOL_CHOICES, data_url
from app.dialects.base import plain, understood, unsupported
from app.strict import schema_format
from app.wire import decode

_ADVICE = {
    "messages": "Here the user's turns may have text, images and results of tools as text, those of the assistant "
    "text and uses of tools.",
    "system": "Send text.",
    "tools": "Only tools of your own can be used here.",
    "thinking": "Leave it out: thinking is not shown here.",
    "top_k": "Use `top_p`.",
    "mcp_servers": "Send the servers' tools as `tools`, and call them yourself.",
    "container": "Send `tools` of your own, and run them yourself.",
}
_TAKEN = ("cache_control", "service_tier")  # hints that have no place in a chat completion, and change no answer
_TOOL_CHOICES = {theirs: ours for ours, theirs in TOOL_CHOICES.items()}


class _Text(msgspec.Struct, tag="text"):
    text: str


class _Base64(msgspec.Struct, tag="base64"):
    media_type: str
    data: str


class _Url(msgspec.Struct, tag="url"):
    url: str


class _Image(msgspec.Struct, tag="image"):
    source: _Base64 | _Url


class _ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class _ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[_Text] | None = None


class _Thinking(msgspec.Struct, tag="thinking"):
    """What a model thought, which no other can read: left out."""


class _RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    """Likewise."""


_Block = _Text | _Image | _ToolUse | _ToolResult | _Thinking | _RedactedThinking


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Format(msgspec.Struct, tag="json_schema"):
    schema: dict[str, Any]


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Thought(msgspec.Struct):
    type: Literal["disabled", "adaptive"]


class _Body(msgspec.Struct):
    model: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[_Text] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: _OutputConfig | None = None
    metadata: _Metadata | None = None
    thinking: _Thought | None = None  # `adaptive` lets the model choose; here it chooses not to show any


def read_messages(raw: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Translate a request.

    Returns:
        The body of a chat completion's request, and the stop sequences.

    Raises:
        InvalidRequestError: It is malformed, or asks for what a chat completion cannot; `param` names the field.
    """
    asked = understood(decode(raw), _Body, _TAKEN, _ADVICE)
    return _chat(asked), tuple(asked.stop_sequences or ())


def _chat(asked: _Body) -> dict[str, Any]:
    if asked.messages[-1].role == "assistant":
        raise unsupported("messages", "An answer cannot be begun for the model: end with a turn of the user.")
    turns = [turn for i, message in enumerate(asked.messages) for turn in _turns(message, f"messages[{i}]")]
    if not turns:
        raise unsupported("messages", "Turns without content ask for nothing: add a text.")
    system = asked.system if isinstance(asked.system, str) else plain([_part(text) for text in asked.system or ()])
    wanted = asked.output_config and asked.output_config.format
    fields = {
        "model": asked.model,
        "messages": [{"role": "system", "content": system}, *turns] if system else turns,
        "max_completion_tokens": asked.max_tokens,
        "stream": asked.stream,
        "stop": asked.stop_sequences,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "tools": [_tool(tool) for tool in asked.tools or ()] or None,
        **_tool_choice(asked.tool_choice),
        "response_format": schema_format(wanted.schema) if wanted else None,
        "reasoning_effort": asked.output_config and asked.output_config.effort,
        "user": asked.metadata and asked.metadata.user_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _turns(message: _Message, path: str) -> Iterator[dict[str, Any]]:
    """Yield the results of tools as messages of their own, and before the rest, as a chat completion wants them."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    parts, calls = [], []
    for i, block in enumerate(message.content):
        if isinstance(block, _ToolResult) and message.role == "user":
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
        elif isinstance(block, _ToolUse) and message.role == "assistant":
            function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, _Text) or (isinstance(block, _Image) and message.role == "user"):
            parts.append(_part(block))
        elif not isinstance(block, _Thinking | _RedactedThinking):
            raise unsupported(f"{path}.content[{i}]", f"A turn of the {message.role} has no such block.")
    if parts or calls:
        turn = {"role": message.role, "content": plain(parts) if parts else None}
        yield {**turn, "tool_calls": calls} if calls else turn


def _part(block: _Text | _Image) -> dict[str, Any]:
    if isinstance(block, _Text):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, _Url) else data_url(source.media_type, source.data)
    return {"type": "image_url", "image_url": {"url": url}}


def _result(block: _ToolResult) -> str | list[dict[str, Any]]:
    """Return what a tool said; that it failed a chat completion has no place for but the text."""
    if isinstance(block.content, str):
        return block.content
    return plain([_part(text) for text in block.content or ()]) or ""


def _tool(tool: _Tool) -> dict[str, Any]:
    optional = {"description": tool.description, "strict": tool.strict}
    given = {name: value for name, value in optional.items() if value is not None}
    return {"type": "function", "function": {"name": tool.name, "parameters": tool.input_schema, **given}}


def _tool_choice(choice: _ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if choice.type == "tool":
        if not choice.name:
            raise unsupported("tool_choice", "With the type `tool` it needs the `name` of one.")
        chosen: Any = {"type": "function", "function": {"name": choice.name}}
    else:
        chosen = _TOOL_CHOICES[choice.type]
    return {"tool_choice": chosen, "parallel_tool_calls": False if choice.disable_parallel_tool_use else None}
