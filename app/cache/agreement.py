"""Whether two answers to one request say the same: for checking a stored answer against a fresh one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from app.cache.decision import LONGEST_VERIFIED
from app.cache.guard import features, refusal
from app.cache.surface import plain

ALIKE, UNLIKE = 0.75, 0.5  # evidence from which answers say the same, and below which they do not; between, who knows
_NEARLY = 0.8  # of all words of two answers that both have
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def settled_answers(request: Mapping[str, Any], stored: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool | None:
    """Compare two completions' first messages where no model is needed for it.

    Args:
        request: The request's body.
        stored: A completion in OpenAI's form.
        fresh: Another one.

    Returns:
        Whether they say the same; None where the wording must be read.
    """
    a, b = stored["choices"][0]["message"], fresh["choices"][0]["message"]
    if a.get("tool_calls") or b.get("tool_calls"):
        return _calls(a) == _calls(b)
    first, second = answer_text(stored), answer_text(fresh)
    if plain(first) == plain(second):
        return True
    structured = ((request.get("response_format") or {}).get("type") or "text") != "text"
    one, other = _json(first), _json(second)
    if structured or (one is not None and other is not None):
        return one is not None and one == other
    says, says_too = affirmed(first), affirmed(second)
    return False if None not in (says, says_too) and says != says_too else None


def affirmed(text: str) -> bool | None:
    """Return whether a text begins with yes, or with no; None if with neither."""
    match = _YES_NO.match(text)
    return None if match is None else match[1].lower() == "yes"


def told_apart(a: str, b: str) -> bool:
    """Whether two answers contradict each other in a fact that rules can see; one may say more than the other.

    Of long ones in other words, rules tell nothing: each has names and numbers that the other leaves out.
    """
    if max(len(a), len(b)) > LONGEST_VERIFIED and not _nearly_the_same_words(a, b):
        return False
    rule = refusal(a, b)
    if rule == "number":
        first, second = features(a).numbers, features(b).numbers
        return not (first <= second or second <= first)
    return rule in ("name", "opposite")


def _nearly_the_same_words(a: str, b: str) -> bool:
    first, second = set(features(a).words), set(features(b).words)
    return len(first & second) >= _NEARLY * len(first | second)


def alike(evidence: float) -> bool | None:
    """Return whether two answers with this evidence say the same; None where it cannot be told."""
    return True if evidence >= ALIKE else False if evidence < UNLIKE else None


def answer_text(completion: Mapping[str, Any]) -> str:
    """Return the text of a completion's first choice."""
    return str(completion["choices"][0]["message"].get("content") or "")


def _calls(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return [(call["name"], _json(call["arguments"]) or call["arguments"]) for call in calls]


def _json(text: str) -> dict[str, Any] | list[Any] | None:
    """Decode an object or a list, fenced or not."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)```\s*", text, re.DOTALL)
    try:
        value = msgspec.json.decode(fenced[1] if fenced else text)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return value if isinstance(value, dict | list) else None
