"""A completion as blocks: stretches of text and calls of tools, one after another, as they come."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.wire import chunks_of, identity, message_text


@dataclass(slots=True)
class Block:
    """A stretch of text, of a refusal, or a call of a tool.

    Attributes:
        index: Its place in the answer.
        text: As much as has come; of a call, its arguments as JSON.
    """

    kind: Literal["text", "refusal", "call"]
    index: int
    call_id: str = ""
    name: str = ""
    text: str = ""


Step = tuple[Literal["start", "grow", "stop"], Block, str]  # `grow` has the piece


class Reading:
    """Reads the chunks of a completion, its first choice.

    Attributes:
        head: The first chunk: who answers, and when; empty until it comes.
        blocks: What has come.
        finish_reason: Why it ended, in OpenAI's words.
        stopped_by: The stop sequence that ended it, if the provider names it.
        usage: Its tokens, as the provider counted them.
    """

    def __init__(self) -> None:
        self.head: Mapping[str, Any] = {}
        self.blocks: list[Block] = []
        self.finish_reason = "stop"
        self.stopped_by: Any = None
        self.usage: Mapping[str, Any] = {}
        self._calls: dict[int, Block] = {}

    @classmethod
    def of(cls, completion: Mapping[str, Any]) -> Reading:
        """Read a whole completion."""
        reading = cls()
        for chunk in chunks_of({**identity(), **completion}):
            for _ in reading.add(chunk):
                pass
        reading.stopped_by = completion["choices"][0].get("stop_reason")
        return reading

    def add(self, chunk: Mapping[str, Any]) -> Iterator[Step]:
        """Take the next chunk."""
        self.head = self.head or chunk
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            if choice["index"] == 0:
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                self.stopped_by = choice.get("stop_reason") or self.stopped_by
                yield from self._add(choice.get("delta") or {})

    def close(self) -> Iterator[Step]:
        """Close the last block."""
        if self.blocks:
            yield "stop", self.blocks[-1], ""

    def called(self) -> bool:
        """Whether a tool is called."""
        return bool(self._calls)

    def tokens(self) -> tuple[int, int, int, int]:
        """Count the tokens read, of them those from a provider's cache and those put there, and the ones written."""
        details = self.usage.get("prompt_tokens_details") or {}
        cached, stored = (details.get(name) or 0 for name in ("cached_tokens", "cache_write_tokens"))
        return self.usage.get("prompt_tokens") or 0, cached, stored, self.usage.get("completion_tokens") or 0

    def _add(self, delta: Mapping[str, Any]) -> Iterator[Step]:
        yield from self._say("text", message_text(delta))
        yield from self._say("refusal", delta.get("refusal") or "")
        for piece in delta.get("tool_calls") or ():
            place, function = piece.get("index", 0), piece.get("function") or {}
            if place not in self._calls:
                call_id = piece.get("id") or f"call_{uuid.uuid4().hex[:24]}"
                self._calls[place] = Block("call", len(self.blocks), call_id, function.get("name") or "")
                yield from self._start(self._calls[place])
            if function.get("arguments"):
                yield self._grow(self._calls[place], function["arguments"])

    def _say(self, kind: Literal["text", "refusal"], piece: str) -> Iterator[Step]:
        if not piece:
            return
        if not self.blocks or self.blocks[-1].kind != kind:
            yield from self._start(Block(kind, len(self.blocks)))
        yield self._grow(self.blocks[-1], piece)

    def _start(self, block: Block) -> Iterator[Step]:
        yield from self.close()
        self.blocks.append(block)
        yield "start", block, ""

    @staticmethod
    def _grow(block: Block, piece: str) -> Step:
        block.text += piece
        return "grow", block, piece
