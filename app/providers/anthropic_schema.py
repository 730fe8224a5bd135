"""JSON schemas as Anthropic's structured output takes them, and the tool that stands in where it takes one not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NAME = "give_answer"
_KEY = "answer"  # what an answer that is no object goes under, since the input of a tool is one


def output_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema as structured output takes it: objects closed, other limits in words.

    Returns:
        None where that would ask for something else: free-form objects, or references of another kind.
    """
    from anthropic import transform_schema

    if _free(schema):
        return None
    try:
        return transform_schema(_without_lists(schema))
    except (ValueError, TypeError, AttributeError, AssertionError):  # a schema that the client cannot read
        return None


def _free(part: Any) -> bool:
    """Whether an object in a schema may have keys that are not listed, by more than leaving that open."""
    if isinstance(part, list):
        return any(map(_free, part))
    if not isinstance(part, dict):
        return False
    if part.get("type") == "object" and not part.get("properties"):
        return True
    open_ended = "patternProperties" in part or part.get("additionalProperties", False) not in (True, False)
    return open_ended or "definitions" in part or any(map(_free, part.values()))


def _without_lists(part: Any) -> Any:
    """Write `type: [string, null]` as `anyOf`, which the client takes."""
    if isinstance(part, list):
        return [_without_lists(item) for item in part]
    if not isinstance(part, dict):
        return part
    spelled = {key: _without_lists(value) for key, value in part.items()}
    kinds = spelled.get("type")
    if not isinstance(kinds, list):
        return spelled
    del spelled["type"]
    if "enum" in spelled or "const" in spelled:
        return spelled
    described = {key: spelled.pop(key) for key in ("title", "description") if key in spelled}
    return {"anyOf": [{"type": "null"} if kind == "null" else {"type": kind, **spelled} for kind in kinds], **described}


@dataclass(frozen=True, slots=True)
class AnswerTool:
    """A tool whose call is the answer.

    Attributes:
        definition: As the API takes it.
        wrapped: Whether the answer is under a key of the input, since it is no object.
    """

    definition: dict[str, Any]
    wrapped: bool

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> AnswerTool:
        """Make the tool for answers of a schema."""
        wrapped = schema.get("type") != "object"
        fields: Mapping[str, Any] = schema
        if wrapped:
            shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
            inner = {key: value for key, value in schema.items() if key not in shared}
            fields = {"type": "object", "properties": {_KEY: inner}, "required": [_KEY], **shared}
        described = "Gives the answer to the user, in the form that is asked for."
        return cls({"name": _NAME, "description": described, "input_schema": dict(fields)}, wrapped)

    @property
    def name(self) -> str:
        """What the model calls it."""
        return _NAME

    def answer(self, given: Any) -> str:
        """Return the input of a call as the text of the answer."""
        return json.dumps(given[_KEY] if self.wrapped and _KEY in given else given, ensure_ascii=False)
