"""Whether a stored answer may serve a new text. The rule every path shares: online, evaluation and calibration.

Three stages, each with its reason: the guard refuses texts that differ in what determines the answer; texts that differ
on the surface alone are the same; of the rest, the evidence of encoder and verifier must reach the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.cache.guard import refusal
from app.cache.surface import plain

SURFACE = 2.0  # the evidence of texts that differ on the surface alone: above every threshold
LONGEST_VERIFIED = 400  # characters; the verifier sees no more, so longer texts are served for the same text alone


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored text near the new one: its entry's digest, and the cosine between them."""

    entry: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Screening:
    """What the rules alone say.

    Attributes:
        same: Index of a text that differs on the surface alone, if there is one.
        grey: Indices of the texts that no rule refuses, nearest first.
        refused: The rule that refused the nearest text that was refused, if any was.
    """

    same: int | None
    grey: tuple[int, ...]
    refused: str | None


def screen(text: str, stored: Sequence[str]) -> Screening:
    """Judge stored texts, nearest first, by the rules alone."""
    wanted, refused = plain(text), None
    grey: list[int] = []
    for i, other in enumerate(stored):
        rule = refusal(other, text)
        if rule is not None:
            refused = refused or f"guard: {rule}"
        elif plain(other) == wanted:
            return Screening(i, (), refused)
        elif max(len(text), len(other)) <= LONGEST_VERIFIED:
            grey.append(i)
        else:
            refused = refused or "too long to verify"
    return Screening(None, tuple(grey), refused)


def evidence(similarity: float, probability: float) -> float:
    """Combine the encoder's cosine with the verifier's log-odds.

    The encoder ranks paraphrases better, the verifier sees the small differences; a share of the log-odds lets a
    doubtful verifier ask for a higher cosine and a certain one for a lower, within `REACH` either way.
    """
    probability = min(max(probability, _LEAST), 1 - _LEAST)
    return similarity + _WEIGHT * math.log(probability / (1 - probability))


def settled(similarity: float, threshold: float) -> bool | None:
    """Return whether a cosine alone reaches or misses the threshold; None if the verifier must be asked."""
    if similarity - REACH >= threshold:
        return True
    return None if similarity + REACH >= threshold else False


_WEIGHT = 0.04  # the best of those tried on the pairs of the shipped calibration (docs/experiments.md)
_LEAST = 0.01  # a probability nearer to certainty than this counts as this
REACH = _WEIGHT * math.log((1 - _LEAST) / _LEAST)  # about 0.18
