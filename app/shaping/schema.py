"""Whether an answer is the JSON that was asked for, and how to ask again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

Fate = Literal["valid", "repaired", "escalated", "invalid"]  # of an answer that had to be JSON; what clients see
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


def structured(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for JSON."""
    return (body.get("response_format") or {}).get("type") in ("json_object", "json_schema")


def unfenced(completion: dict[str, Any]) -> bool:
    """Take the fences of Markdown off answers that are nothing but a fenced block; say whether there were any."""
    changed = False
    for choice in completion.get("choices") or ():
        match = _FENCED.fullmatch((choice.get("message") or {}).get("content") or "")
        if match is not None:
            choice["message"]["content"] = match[1]
            changed = True
    return changed


def checked(completion: Mapping[str, Any]) -> bool:
    """Whether all of a completion had to be JSON: no refusal, no call of a tool, nothing that a limit cut."""
    return not any(_other(one) or one.get("finish_reason") == "length" for one in completion.get("choices") or ())


def _other(choice: Mapping[str, Any]) -> bool:
    """Whether a choice is something else than a text: a refusal, or a call of a tool."""
    message = choice.get("message") or {}
    return bool(message.get("refusal") or message.get("tool_calls"))


def fault(body: Mapping[str, Any], completion: Mapping[str, Any], *, own_limit: bool = False) -> str | None:
    """Return what keeps a completion from being the JSON that its request asks for, or None.

    A refusal, a call of a tool, and an answer cut at the limit that the client set are as the client asked.

    Args:
        own_limit: The limit is not the client's, so that an answer that it cut is none.
    """
    wanted = body.get("response_format") or {}
    for choice in completion.get("choices") or ():
        if _other(choice):
            continue
        if choice.get("finish_reason") == "length":
            if own_limit:
                return f"it is longer than {body.get('max_tokens')} tokens"
            continue
        found = text_fault(wanted, (choice.get("message") or {}).get("content") or "")
        if found is not None:
            return found
    return None


def text_fault(wanted: Mapping[str, Any], text: str) -> str | None:
    """Return what keeps a text from being the JSON of a `response_format`, or None.

    A schema that is none itself is for the provider to refuse.
    """
    kind = wanted.get("type")
    if kind not in ("json_object", "json_schema"):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        return f"it is not JSON: {error}"
    if kind == "json_object":
        return None if isinstance(value, dict) else "it is not a JSON object"
    schema = (wanted.get("json_schema") or {}).get("schema")
    validator = None if schema is None else _validator(msgspec.json.encode(schema))
    if validator is None:
        return None
    first = next(validator.iter_errors(value), None)
    if first is None:
        return None
    place = "/".join(map(str, first.instance_path)) or "the whole"
    return f"{first.message} (at {place})"


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    """Compile a schema, given as JSON; None if it is none."""
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(msgspec.json.decode(schema))
    except ValueError:
        return None


def repair(body: Mapping[str, Any], completion: Mapping[str, Any], wrong: str) -> dict[str, Any]:
    """Return the request that asks for the answer again, with what is wrong with it."""
    said = completion["choices"][0]["message"].get("content") or ""
    asked_again: Sequence[dict[str, str]] = [
        {"role": "assistant", "content": said},
        {"role": "user", "content": f"Your answer cannot be used: {wrong}. Answer again, with the JSON alone."},
    ]
    return {**body, "messages": [*body["messages"], *asked_again]}
