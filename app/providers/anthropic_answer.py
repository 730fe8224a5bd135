"""Anthropic's messages, whole and as events, as chat completions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.dialects.anthropic import FINISH_REASONS, completion_id
from app.providers.anthropic_schema import AnswerTool


def completion_of(message: Mapping[str, Any], answer_tool: AnswerTool | None) -> dict[str, Any]:
    """Translate a message. Thoughts are left out.

    Raises:
        KeyError: It is not a message; TypeError and AttributeError likewise.
    """
    texts, calls = [], []
    for block in message["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "tool_use" and answer_tool and block["name"] == answer_tool.name:
            texts = [answer_tool.answer(block["input"])]
        elif block["type"] == "tool_use":
            arguments = json.dumps(block["input"], ensure_ascii=False)
            function = {"name": block["name"], "arguments": arguments}
            calls.append({"id": block["id"], "type": "function", "function": function})
    answer: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if calls:
        answer["tool_calls"] = calls
    if explanation := (message.get("stop_details") or {}).get("explanation"):
        answer["refusal"] = explanation
    return {
        **_head(message, "chat.completion"),
        "choices": [{"index": 0, "message": answer, **_ending(message, bool(calls))}],
        "usage": _usage(message["usage"]),
    }


def _head(message: Mapping[str, Any], kind: str) -> dict[str, Any]:
    name = completion_id(message["id"])
    return {"id": name, "object": kind, "created": int(time.time()), "model": message["model"]}


def _ending(stopped: Mapping[str, Any], called: bool) -> dict[str, Any]:
    """Say why a message ended; the sequence that ended it as vLLM says it."""
    reason = FINISH_REASONS.get(stopped.get("stop_reason") or "end_turn", "stop")
    if reason == "tool_calls" and not called:  # of the answer's own tool
        reason = "stop"
    sequence = stopped.get("stop_sequence")
    return {"finish_reason": reason, **({"stop_reason": sequence} if sequence else {})}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Count the tokens; Anthropic's `input_tokens` are those that were neither read from nor written to its cache."""
    read, stored = (usage.get(f"cache_{what}_input_tokens") or 0 for what in ("read", "creation"))
    prompt = (usage.get("input_tokens") or 0) + stored + read
    written = usage.get("output_tokens") or 0
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": read, **({"cache_write_tokens": stored} if stored else {})},
        **({"completion_tokens_details": {"reasoning_tokens": thought}} if thought is not None else {}),
    }


@dataclass(slots=True)
class _Block:
    """A block that is under way.

    Attributes:
        call: Its place among the calls; None for one that is none.
        answers: Whether it is a call of the answer's tool.
        arguments: As much JSON as has come.
    """

    call: int | None = None
    answers: bool = False
    arguments: str = ""


class Chunks:
    """Translates the events of a stream.

    Attributes:
        over: Whether the message has come to its end.
    """

    def __init__(self, answer_tool: AnswerTool | None) -> None:
        self.over = False
        self._answer_tool = answer_tool
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._stopped: dict[str, Any] = {}
        self._blocks: dict[int, _Block] = {}
        self._calls = 0

    def add(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks of an event.

        Raises:
            KeyError: It is not an event of a message; TypeError and AttributeError likewise.
        """
        match event["type"]:
            case "message_start":
                self._head = _head(event["message"], "chat.completion.chunk")
                self._count(event["message"].get("usage"))
                return [self._chunk({"role": "assistant", "content": ""})]
            case "content_block_start":
                return [self._chunk(delta) for delta in self._start(event["index"], event["content_block"])]
            case "content_block_delta":
                return [self._chunk(delta) for delta in self._grow(self._blocks[event["index"]], event["delta"])]
            case "content_block_stop":
                return [self._chunk(delta) for delta in self._stop(self._blocks[event["index"]])]
            case "message_delta":
                self._stopped = event["delta"]
                self._count(event.get("usage"))
            case "message_stop":
                self.over = True
                return list(self._end())
        return []

    def _start(self, index: int, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        block = self._blocks[index] = _Block()
        if content["type"] == "text" and content.get("text"):
            yield {"content": content["text"]}
        elif content["type"] == "tool_use" and self._answer_tool and content["name"] == self._answer_tool.name:
            block.answers = True
        elif content["type"] == "tool_use":
            block.call = self._calls
            self._calls += 1
            function = {"name": content["name"], "arguments": ""}
            yield _call(block.call, id=content["id"], type="function", function=function)

    def _grow(self, block: _Block, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if delta["type"] == "text_delta":
            yield {"content": delta["text"]}
        elif delta["type"] == "input_json_delta" and delta["partial_json"]:
            block.arguments += delta["partial_json"]
            if block.call is not None:
                yield _call(block.call, function={"arguments": delta["partial_json"]})
            elif self._answer_tool and not self._answer_tool.wrapped:
                yield {"content": delta["partial_json"]}

    def _stop(self, block: _Block) -> Iterator[dict[str, Any]]:
        """Give a call without arguments the empty ones, and what was wrapped without its wrapping."""
        if block.call is not None and not block.arguments:
            yield _call(block.call, function={"arguments": "{}"})
        elif block.answers and self._answer_tool and self._answer_tool.wrapped:
            yield {"content": self._answer_tool.answer(json.loads(block.arguments))}

    def _end(self) -> Iterator[dict[str, Any]]:
        if explanation := (self._stopped.get("stop_details") or {}).get("explanation"):
            yield self._chunk({"refusal": explanation})
        yield self._chunk({}, **_ending(self._stopped, self._calls > 0))
        yield {**self._head, "choices": [], "usage": _usage(self._usage)}

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        """Take later counts over earlier ones: each is of all so far."""
        self._usage |= {name: count for name, count in (usage or {}).items() if count is not None}

    def _chunk(self, delta: Mapping[str, Any], **ending: Any) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": None, **ending}]}


def _call(place: int, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": place, **fields}]}
