"""What each generation of Claude takes, so that a configuration need only name the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Structured = Literal["schema", "tool"]
Reasoning = Literal["effort", "budget", "off"]
Effort = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
# `claude-opus-4-20250514` is 4.0: what follows the generation may be a date
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")
_NEWEST = (99, 0)


@dataclass(frozen=True, slots=True)
class Claude:
    """How a model is asked.

    Attributes:
        model: The API's name for it.
        max_tokens: Limit of the answers to requests that set none.
        sampling: Whether it takes `temperature` and `top_p`.
        structured: What a JSON schema becomes.
        reasoning: What `reasoning_effort` becomes.
        budgets: Tokens of thought by effort.
        mark_from_tokens: Shortest beginning of a prompt that is marked to be cached; None marks none.
    """

    model: str
    max_tokens: int
    sampling: bool
    structured: Structured
    reasoning: Reasoning
    budgets: Mapping[Effort, int]
    mark_from_tokens: int | None


def takes_sampling(model: str) -> bool:
    """Whether a model takes `temperature` and `top_p`: those from Claude 4.7 on refuse them."""
    return _version(model) < (4, 7)


def structured_by(model: str) -> Structured:
    """Say how a model is held to a JSON schema: the API does so from Claude 4.1 on."""
    return "schema" if _version(model) >= (4, 1) else "tool"


def reasoning_by(model: str) -> Reasoning:
    """Say how a model is told how long to think: by effort from Claude 4.6 on, by a budget from 3.7 on."""
    version = _version(model)
    return "effort" if version >= (4, 6) else "budget" if version >= (3, 7) else "off"


def _version(model: str) -> tuple[int, int]:
    """Read a model's generation off its name; a name without one is of the newest."""
    match = _VERSION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else _NEWEST
