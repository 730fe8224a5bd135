"""Whether a stored answer may serve a new text. The rule every path shares: online, evaluation and replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored text near the new one: its entry's digest, and the cosine between them."""

    entry: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The candidate to serve, or None, and the rule that decided."""

    candidate: Candidate | None
    reason: str


def decide(candidates: Sequence[Candidate], threshold: float) -> Decision:
    """Choose among candidates by falling similarity: the nearest, if its cosine is at or above the threshold."""
    if not candidates:
        return Decision(None, "no candidate")
    nearest = candidates[0]
    if nearest.similarity < threshold:
        return Decision(None, "below threshold")
    return Decision(nearest, "similar")
