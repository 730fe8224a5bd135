"""A chat completion's request as one of Anthropic's Messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from app.dialects.anthropic import TOOL_CHOICES, source, tool_input
from app.errors import InvalidRequestError, UnfitError
from app.providers.anthropic_caching import mark
from app.providers.anthropic_schema import AnswerTool, output_schema
from app.providers.claude import Claude, Effort
from app.wire import shaped

_LEAST_BUDGET = 1024  # the API's least tokens of thought; as many stay for the answer
_JSON = "Answer with one JSON object and nothing else: no other words, no Markdown."
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
# What would change the form of the answer if it were left out. The rest of what the API lacks tunes or labels an answer
# (`seed`, penalties, `service_tier`, `metadata`, `store`, ...) and is left out.
_UNFIT = {
    "audio": "answers with text alone",
    "function_call": "takes `tools` and `tool_choice` in place of `functions` and `function_call`",
    "functions": "takes `tools` and `tool_choice` in place of `functions` and `function_call`",
    "logit_bias": "takes no bias of tokens",
    "logprobs": "does not tell the odds of its tokens",
    "top_logprobs": "does not tell the odds of its tokens",
    "web_search_options": "does not search the web here",
}


class _Url(msgspec.Struct):
    url: str


class _FileData(msgspec.Struct):
    file_data: str


class _Text(msgspec.Struct, tag="text"):
    text: str


class _Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class _Image(msgspec.Struct, tag="image_url"):
    image_url: _Url


class _File(msgspec.Struct, tag="file"):
    file: _FileData


_Part = _Text | _Refusal | _Image | _File


class _Called(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Called


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str = ""


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    type: Literal["function"]
    function: _Named


class _Schema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _Body(msgspec.Struct):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    modalities: list[Literal["text"]] | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | Literal["none"] | None = None
    response_format: _Format | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    tool_choice: Literal["auto", "none", "required"] | _Choice | None = None
    tools: list[_Tool] | None = None
    top_p: float | None = None
    user: str | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def message_request(body: Mapping[str, Any], claude: Claude) -> tuple[dict[str, Any], AnswerTool | None]:
    """Translate a request.

    Returns:
        The arguments of the client's `messages.create`, and the tool whose call is the answer, if it is to be one.

    Raises:
        UnfitError: It asks for what the API does not give; `param` names the field.
    """
    asked = _understood(body, claude)
    system, turns = _conversation(asked.messages, claude)
    params: dict[str, Any] = {"model": claude.model, "messages": turns, **_tools(asked, claude)}
    answer_tool = _structure(asked, claude, system, params)
    params |= _effort(asked, claude, params)
    params |= {"extra_body": sampling} if (sampling := _sampling(asked, claude, params)) else {}
    if stops := [asked.stop] if isinstance(asked.stop, str) else asked.stop:
        if not all(stop.strip() for stop in stops):
            raise _unfit(claude, "does not stop at white space alone", "stop")
        params["stop_sequences"] = stops
    if asked.user:
        params["metadata"] = {"user_id": asked.user}
    if system:
        params["system"] = system
    if claude.mark_from_tokens is not None:
        mark(params, claude.mark_from_tokens)
    return params, answer_tool


def _understood(body: Mapping[str, Any], claude: Claude) -> _Body:
    for field, reason in _UNFIT.items():
        if body.get(field):
            raise _unfit(claude, reason, field)
    if (body.get("n") or 1) > 1:
        raise _unfit(claude, "gives one answer to a request", "n")
    try:
        return shaped(body, _Body)
    except InvalidRequestError as error:
        raise UnfitError(f"{claude.model}: {error.message}", error.param) from error


def _unfit(claude: Claude, reason: str, param: str) -> UnfitError:
    return UnfitError(f"`{claude.model}` {reason}. Change `{param}`, or name another model.", param)


def _conversation(messages: Sequence[_Message], claude: Claude) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the blocks of the system prompt, and turns of the user and the assistant in alternation."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        blocks = list(_blocks(message, claude, f"messages[{i}]"))
        if message.role in ("system", "developer"):
            system += blocks
        elif blocks:
            role = "assistant" if message.role == "assistant" else "user"
            if turns and turns[-1]["role"] == role:  # the results of all calls of a turn belong in one
                turns[-1]["content"] += blocks
            else:
                turns.append({"role": role, "content": blocks})
    if not turns or turns[-1]["role"] == "assistant":
        raise _unfit(claude, "answers a turn of the user that is not empty", "messages")
    return system, turns


def _blocks(message: _Message, claude: Claude, path: str) -> Iterator[dict[str, Any]]:
    content = [_Text(message.content)] if isinstance(message.content, str) else message.content or []
    said = [block for i, part in enumerate(content) if (block := _block(part, claude, f"{path}.content[{i}]"))]
    if message.role == "tool":
        result = {"content": said} if said else {}
        yield {"type": "tool_result", "tool_use_id": _id(message.tool_call_id), **result}
        return
    yield from said
    if message.refusal:
        yield {"type": "text", "text": message.refusal}
    for call in message.tool_calls or ():
        arguments = tool_input(call.function.arguments)
        yield {"type": "tool_use", "id": _id(call.id), "name": call.function.name, "input": arguments}


def _block(part: _Part, claude: Claude, path: str) -> dict[str, Any] | None:
    """Translate a part; a text without any words is none, since the API refuses it."""
    if isinstance(part, _Image):
        found = source(part.image_url.url)
        if found is None:
            raise _unfit(claude, "takes images by URL or in base64", path)
        return {"type": "image", "source": found}
    if isinstance(part, _File):
        found = source(part.file.file_data)
        if found is None or found["type"] != "base64":
            raise _unfit(claude, "takes files as data URLs in base64", path)
        return {"type": "document", "source": found}
    text = part.text if isinstance(part, _Text) else part.refusal
    return {"type": "text", "text": text} if text.strip() else None


def _id(call_id: str) -> str:
    """Name a call as the API lets it be named; some models make other names."""
    return _NOT_IN_IDS.sub("_", call_id)


def _tools(asked: _Body, claude: Claude) -> dict[str, Any]:
    if not asked.tools:
        return {}
    params: dict[str, Any] = {"tools": [_tool(tool.function, claude) for tool in asked.tools]}
    choice = asked.tool_choice
    if isinstance(choice, _Choice):
        params["tool_choice"] = {"type": "tool", "name": choice.function.name}
    elif choice or asked.parallel_tool_calls is False:
        params["tool_choice"] = {"type": TOOL_CHOICES[choice or "auto"]}
    if asked.parallel_tool_calls is False and choice != "none":
        params["tool_choice"]["disable_parallel_tool_use"] = True
    return params


def _tool(function: _Function, claude: Claude) -> dict[str, Any]:
    tool: dict[str, Any] = {"name": function.name, "input_schema": {"type": "object", **(function.parameters or {})}}
    if function.description:
        tool["description"] = function.description
    if function.strict and claude.structured == "schema":
        tool["strict"] = True
    return tool


def _structure(asked: _Body, claude: Claude, system: list[dict[str, Any]], params: dict[str, Any]) -> AnswerTool | None:
    """Ask for JSON: by the API's structured output, else by a tool that must be called, else in words."""
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.schema if wanted.json_schema else None
    if schema is None:
        system.append({"type": "text", "text": _JSON})
        return None
    if claude.structured == "schema" and (strict := output_schema(schema)) is not None:
        params["output_config"] = {"format": {"type": "json_schema", "schema": strict}}
        return None
    if isinstance(asked.tool_choice, _Choice):  # that call is the answer
        return None
    answer_tool = AnswerTool.of(schema)
    others = params.get("tools", [])
    params["tools"] = [*others, answer_tool.definition]
    if others and asked.tool_choice != "none":
        params["tool_choice"] = {**params.get("tool_choice", {}), "type": "any"}
    else:
        params["tool_choice"] = {"type": "tool", "name": answer_tool.name, "disable_parallel_tool_use": True}
    return answer_tool


def _effort(asked: _Body, claude: Claude, params: Mapping[str, Any]) -> dict[str, Any]:
    """Limit the answer, and say how long to think about it.

    Thinking goes neither with a tool that must be called nor with results of tools: the thoughts that led to the calls
    would have to be there.
    """
    effort, limit = asked.reasoning_effort, asked.limit or claude.max_tokens
    results = any(block["type"] == "tool_result" for block in params["messages"][-1]["content"])
    may_think = not results and params.get("tool_choice", {}).get("type") not in ("any", "tool")
    if claude.reasoning == "effort" and effort and effort != "none":
        level = "low" if effort == "minimal" else effort
        thinking = {"thinking": {"type": "adaptive"}} if may_think and effort != "minimal" else {}
        return {"max_tokens": limit, "output_config": {**params.get("output_config", {}), "effort": level}, **thinking}
    budget = 0
    if claude.reasoning == "budget" and may_think and effort and effort != "none":
        budget = claude.budgets.get(effort, 0)
    if asked.limit is None:
        limit += budget
    budget = min(budget, limit - _LEAST_BUDGET)
    if budget < _LEAST_BUDGET:
        return {"max_tokens": limit}
    return {"max_tokens": limit, "thinking": {"type": "enabled", "budget_tokens": budget}}


def _sampling(asked: _Body, claude: Claude, params: Mapping[str, Any]) -> dict[str, float]:
    """Return the `temperature` or else `top_p`: not both, and neither with thinking, as the API wants it."""
    if not claude.sampling or "thinking" in params:
        return {}
    if asked.temperature is not None:
        return {"temperature": min(asked.temperature, 1.0)}
    return {} if asked.top_p is None else {"top_p": asked.top_p}
