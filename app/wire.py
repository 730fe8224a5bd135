"""OpenAI's JSON, in and out: validated requests, chunks made from completions and completions from chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from app.errors import GatewayError, InvalidRequestError

T = TypeVar("T")
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _JsonSchema(msgspec.Struct):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ChatBody(msgspec.Struct):
    """The fields the gateway reads or can check; others pass through as they are."""

    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    stop: str | list[str] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    seed: int | None = None
    user: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: _ResponseFormat | None = None


_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def decode(raw: bytes) -> dict[str, Any]:
    """Decode the body of a request.

    Raises:
        InvalidRequestError: It is not a JSON object.
    """
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}. Send one JSON object.") from error
    if not isinstance(body, dict):
        raise InvalidRequestError("The body is not a JSON object. Send one.")
    return body


def shaped(body: Mapping[str, Any], shape: type[T]) -> T:
    """Read a body as a struct.

    Raises:
        InvalidRequestError: A field is missing or of the wrong type; `param` names it.
    """
    try:
        return msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        if param is None and "missing required field" in message:
            param = message.rpartition("field ")[2].strip("`")
        if param in ("messages", "input") and "length" in message:
            message = f"`{param}` is empty; send at least one {'message' if param == 'messages' else 'text'}"
        raise InvalidRequestError(f"{message}{f' (in `{param}`)' if param else ''}.", param) from error


def parse_body(raw: bytes) -> dict[str, Any]:
    """Decode and validate the body of a chat completion request.

    Raises:
        InvalidRequestError: Not JSON, or a field is missing or of the wrong type; `param` names it.
    """
    body = decode(raw)
    shaped(body, _ChatBody)
    response_format = body.get("response_format") or {}
    if response_format.get("type") == "json_schema" and not response_format.get("json_schema"):
        raise InvalidRequestError(
            "`response_format` of type `json_schema` needs `json_schema` with a `name` and a `schema`.",
            "response_format.json_schema",
        )
    return body


class Feedback(msgspec.Struct):
    """A client's verdict on a cached answer, by the name in its `x-tierwise-cache-entry` header."""

    entry: str
    correct: bool


def parse_feedback(raw: bytes) -> Feedback:
    """Decode the body of a feedback request.

    Raises:
        InvalidRequestError: It is not `{"entry": "...", "correct": true|false}`.
    """
    try:
        return msgspec.json.decode(raw, type=Feedback)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f'{error}. Send {{"entry": "...", "correct": true or false}}.') from error


class Labelled(msgspec.Struct):
    """Which of two answers a person found better."""

    better: Literal["first", "second", "neither"]


def parse_preference(raw: bytes) -> Labelled:
    """Decode a person's word on a pair.

    Raises:
        InvalidRequestError: It is not `{"better": "first|second|neither"}`.
    """
    try:
        return msgspec.json.decode(raw, type=Labelled)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f'{error}. Send {{"better": "first"}}, or "second" or "neither".') from error


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message, its text parts joined by newlines."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if isinstance(part.get("text"), str))


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user turn, or of the last message where no user speaks."""
    for message in reversed(messages):
        if message["role"] == "user":
            return message_text(message)
    return message_text(messages[-1])


def error_body(error: GatewayError) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def identity() -> dict[str, Any]:
    """Return an id and a time of its own for an answer that was made for another request."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}


def fresh(body: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a stored completion under an id and a time of its own, its prompt tokens marked as cached.

    Calls of tools get ids of their own too: a conversation that is answered twice from the same entry has both in it.
    """
    copy = {**body, **identity()}
    if any(choice["message"].get("tool_calls") for choice in body["choices"]):
        copy["choices"] = [{**choice, "message": _recalled(choice["message"])} for choice in body["choices"]]
    if usage := body.get("usage"):
        details = {**(usage.get("prompt_tokens_details") or {}), "cached_tokens": usage.get("prompt_tokens", 0)}
        copy["usage"] = {**usage, "prompt_tokens_details": details}
    return copy


def _recalled(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": f"call_{uuid.uuid4().hex[:24]}"} for call in message.get("tool_calls") or ()]
    return {**message, "tool_calls": calls} if calls else dict(message)


def chunks_of(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut a completion into the chunks of a stream, the last one with the usage and no choices."""
    head = {
        "id": body["id"],
        "object": "chat.completion.chunk",
        "created": body["created"],
        "model": body.get("model"),
    }
    for choice in body["choices"]:
        delta = dict(choice["message"])  # with what a provider adds, such as `annotations` or `reasoning_content`
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
        piece = {"index": choice["index"], "delta": delta, "finish_reason": None}
        if choice.get("logprobs"):
            piece["logprobs"] = choice["logprobs"]
        yield {**head, "choices": [piece]}
        yield {**head, "choices": [{"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}]}
    if body.get("usage"):
        yield {**head, "choices": [], "usage": body["usage"]}


class ChunkAssembler:
    """Puts the chunks of a stream together into the completion they are."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take the next chunk."""
        if not self._head:
            self._head = {key: chunk[key] for key in ("id", "created", "model", "system_fingerprint") if key in chunk}
        if chunk.get("usage"):
            self._usage = dict(chunk["usage"])
        for piece in chunk.get("choices") or ():
            choice = self._choices.setdefault(
                piece["index"],
                {
                    "index": piece["index"],
                    "message": {"role": "assistant", "content": None},
                    "finish_reason": None,
                },
            )
            self._add_delta(choice["message"], piece.get("delta") or {})
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
            tokens = (piece.get("logprobs") or {}).get("content")
            if tokens:
                choice.setdefault("logprobs", {"content": []})["content"].extend(tokens)

    @staticmethod
    def _add_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
        for key, piece in delta.items():
            if piece and key not in ("role", "tool_calls"):
                grows = isinstance(piece, str | list) and type(message.get(key)) is type(piece)
                message[key] = message[key] + piece if grows else piece
        for piece in delta.get("tool_calls") or ():
            calls = message.setdefault("tool_calls", [])
            index = piece.get("index", 0)  # some compatible APIs leave it out
            while len(calls) <= index:
                calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
            call = calls[index]
            call.update({key: piece[key] for key in ("id", "type") if piece.get(key)})
            for key, text in (piece.get("function") or {}).items():
                call["function"][key] = call["function"].get(key, "") + (text or "")

    def completion(self) -> dict[str, Any]:
        """Return the completion so far, in the form of an unstreamed answer."""
        body = {**self._head, "object": "chat.completion", "choices": [self._choices[i] for i in sorted(self._choices)]}
        return {**body, "usage": self._usage} if self._usage else body
