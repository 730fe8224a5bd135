"""A request of OpenAI's Responses, as a chat completion's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from app.dialects.base import plain, understood, unsupported

_STATELESS = "Nothing is kept between requests here: send the earlier turns in `input`."
_ADVICE = {
    "input": "Here it may have messages of text and images, calls of functions, and their results as text: no files, "
    "no calls of built-in tools, and no references to what was stored.",
    "tools": "Only functions of your own can be called here.",
    "tool_choice": "Send `auto`, `none`, `required`, or a function.",
    "truncation": "Leave it out, and send a shorter `input`.",
    "include": "Leave it out.",
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "store": "Nothing is kept here: leave it out, or send false.",
    "background": "Leave it out, and use `stream` for a long answer.",
    "prompt": "Send the prompt's text in `instructions` and `input`.",
    "top_logprobs": "Use `/v1/chat/completions` for them.",
    "max_tool_calls": "It limits built-in tools, which are not here.",
}
# Fields of chat completions by the same name, and those that ask for nothing that a chat completion has.
_SAME = (
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stream",
    "temperature",
    "top_p",
    "user",
)
_TAKEN = ("metadata", "stream_options")
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _InputText(msgspec.Struct, tag="input_text"):
    text: str


class _OutputText(msgspec.Struct, tag="output_text"):
    text: str


class _Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class _Image(msgspec.Struct, tag="input_image"):
    image_url: str
    detail: str | None = None


class _Message(msgspec.Struct, tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_InputText | _OutputText | _Refusal | _Image]


class _Call(msgspec.Struct, tag="function_call"):
    call_id: str
    name: str
    arguments: str


class _Result(msgspec.Struct, tag="function_call_output"):
    call_id: str
    output: str | list[_InputText]


class _Reasoning(msgspec.Struct, tag="reasoning"):
    """What a model thought, which no other can read: left out."""


class _Tool(msgspec.Struct):
    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["function"]
    name: str


class _TextFormat(msgspec.Struct, tag="text"):
    pass


class _JsonObject(msgspec.Struct, tag="json_object"):
    pass


class _JsonSchema(msgspec.Struct, tag="json_schema"):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _TextFormat | _JsonObject | _JsonSchema | None = None
    verbosity: str | None = None


class _Effort(msgspec.Struct):
    effort: str | None = None


class _Body(msgspec.Struct):
    model: str
    input: str | Annotated[list[_Message | _Call | _Result | _Reasoning], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: _Effort | None = None
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    text: _Text | None = None
    tool_choice: Literal["auto", "none", "required"] | _ToolChoice | None = None
    tools: list[_Tool] | None = None
    top_p: _Share | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None  # of reasoning, which is never shown here


def read_response(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a request to the body of a chat completion's.

    Raises:
        InvalidRequestError: It is malformed, or asks for what a chat completion cannot; `param` names the field.
    """
    asked = understood(_typed(body), _Body, (*_SAME, *_TAKEN), _ADVICE)
    fields = {
        **{name: body.get(name) for name in _SAME},
        "model": asked.model,
        "messages": _messages(asked),
        "max_completion_tokens": asked.max_output_tokens,
        "tools": [_tool(tool) for tool in asked.tools or ()] or None,
        "tool_choice": _tool_choice(asked.tool_choice),
        "response_format": _response_format(asked.text.format if asked.text else None),
        "verbosity": asked.text and asked.text.verbosity,
        "reasoning_effort": asked.reasoning and asked.reasoning.effort,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _typed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Name the type of input items that leave it out: they are messages."""
    items = body.get("input")
    if not isinstance(items, list):
        return dict(body)
    return {**body, "input": [{"type": "message", **item} if isinstance(item, dict) else item for item in items]}


def _messages(asked: _Body) -> list[dict[str, Any]]:
    """Translate the input; calls of tools belong to the message of the assistant before them."""
    messages: list[dict[str, Any]] = []
    if asked.instructions:
        messages.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*messages, {"role": "user", "content": asked.input}]
    for i, item in enumerate(asked.input):
        if isinstance(item, _Message):
            messages.append({"role": item.role, "content": _content(item, f"input[{i}].content")})
        elif isinstance(item, _Result):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _output(item.output)})
        elif isinstance(item, _Call):
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
    if not messages:
        raise unsupported("input", "Reasoning alone asks for nothing: add a message.")
    return messages


def _content(message: _Message, path: str) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(message.content):
        if isinstance(part, _Image):
            if message.role != "user":
                raise unsupported(f"{path}[{i}]", "Only a turn of the user has images.")
            detail = {"detail": part.detail} if part.detail else {}
            parts.append({"type": "image_url", "image_url": {"url": part.image_url, **detail}})
        elif isinstance(part, _Refusal):
            parts.append({"type": "refusal", "refusal": part.refusal})
        else:
            parts.append({"type": "text", "text": part.text})
    return plain(parts)


def _output(output: str | Iterable[_InputText]) -> str | list[dict[str, Any]]:
    return output if isinstance(output, str) else plain([{"type": "text", "text": part.text} for part in output])


def _tool(tool: _Tool) -> dict[str, Any]:
    optional = {"parameters": tool.parameters, "description": tool.description, "strict": tool.strict}
    given = {name: value for name, value in optional.items() if value is not None}
    return {"type": "function", "function": {"name": tool.name, **given}}


def _tool_choice(choice: str | _ToolChoice | None) -> str | dict[str, Any] | None:
    if isinstance(choice, _ToolChoice):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _response_format(wanted: _TextFormat | _JsonObject | _JsonSchema | None) -> dict[str, Any] | None:
    if isinstance(wanted, _JsonObject):
        return {"type": "json_object"}
    if not isinstance(wanted, _JsonSchema):
        return None
    optional = {"description": wanted.description, "strict": wanted.strict}
    given = {name: value for name, value in optional.items() if value is not None}
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema, **given}}
