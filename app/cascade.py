"""Whether a cheap answer may be kept: the checks of a cascade."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from app.cache.refusals import refused
from app.section import Section
from app.shaping.schema import text_fault


class CascadeConfig(Section):
    """Near a cut point the cheaper tier is tried first, and its answer kept only if it passes checks.

    Attributes:
        enabled: For every tenant, or
        tenants: for these alone.
        margin: So little above the cut point that a prompt counts as near.
        min_token_probability: Of a local model's answer, the least geometric mean of its tokens' probabilities.
    """

    enabled: bool = False
    tenants: tuple[str, ...] = ()
    margin: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_token_probability: Annotated[float, Field(ge=0, le=1)] = 0.7

    def margin_for(self, tenant: str) -> float:
        """Return the margin for a tenant; 0 where the cascade is off."""
        return self.margin if self.enabled or tenant in self.tenants else 0.0


def objection(request: Mapping[str, Any], body: Mapping[str, Any], min_token_probability: float) -> str | None:
    """Return why a cheap answer is not kept: `truncated`, `empty`, `refusal`, `schema` or `unsure`; None keeps it.

    Args:
        request: The request's body.
        body: The completion, with the tokens' log-probabilities if they are known.
    """
    choices: Sequence[Mapping[str, Any]] = body.get("choices") or ({},)
    for choice in choices:
        message = choice.get("message") or {}
        text = message.get("content") or ""
        if choice.get("finish_reason") not in ("stop", "tool_calls"):
            return "truncated"
        if not (text.strip() or message.get("tool_calls")):
            return "empty"
        if message.get("refusal") or refused(text):
            return "refusal"
        if text_fault(request.get("response_format") or {}, text) is not None:
            return "schema"
        if _token_probability(choice) < min_token_probability:
            return "unsure"
    return None


def _token_probability(choice: Mapping[str, Any]) -> float:
    """Return the geometric mean of the tokens' probabilities; 1 where they are not known."""
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return math.exp(sum(token["logprob"] for token in tokens) / len(tokens)) if tokens else 1.0
