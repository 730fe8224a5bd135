"""What checks say of the quality kept, and which cut point moves.

A check asks whether an answer of a cheaper tier serves as well as the best tier's. Requests are drawn from all that are
routed; those that went to the best tier keep all of its quality, so the bad share of the others counts by their share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.cache.bound import Tally

STEP = 0.02  # of the score


@dataclass(frozen=True, slots=True)
class Kept:
    """Checks since the cut points last moved, and where they are.

    Attributes:
        tallies: By tier: checks, and how many found a worse answer.
        steps: By tier: how many steps its cut point is below the calibrated one; at least 1.
        drawn: Routed requests drawn, and
        down: how many of them a cheaper tier answered: not all of those can be checked, or told.
    """

    tallies: Mapping[str, Tally] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    drawn: int = 0
    down: int = 0

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the share of all routed requests whose answer is as good as the best tier's.

        Args:
            confidence: Of both ends together, at all times at once.
        """
        low, high = self._total().interval(confidence)
        return 1 - self._down_share() * high, 1 - self._down_share() * low

    def estimate(self) -> float:
        """Return the likeliest share; 1 before any check."""
        total = self._total()
        return 1 - self._down_share() * total.wrong / max(total.checked, 1)

    def move(self, kept: float, confidence: float) -> tuple[str, int] | None:
        """Return the tier whose cut point is to move and by how many steps, or None.

        Once the share that is kept is below `kept` by its upper bound, the tier with the most bad answers gets fewer
        requests; once it is above by its lower bound, the one that moved furthest goes a step back.

        Args:
            kept: The share of routed requests whose answer is to be as good as the best tier's.
        """
        low, high = self.interval(confidence)
        if high < kept:
            return max(self.tallies, key=lambda tier: self.tallies[tier].wrong), 1
        if low >= kept and self.steps:
            return max(self.steps, key=lambda tier: self.steps[tier]), -1
        return None

    def _total(self) -> Tally:
        return Tally(sum(t.checked for t in self.tallies.values()), sum(t.wrong for t in self.tallies.values()))

    def _down_share(self) -> float:
        return self.down / self.drawn if self.drawn else 1.0


def moved(cuts: tuple[float, ...], tiers: tuple[str, ...], steps: Mapping[str, int]) -> tuple[float, ...]:
    """Lower cut points by their tiers' steps; none falls below 0 or above the next.

    Args:
        cuts: Rising, one for each of `tiers`, the best tier left out.
    """
    lowered: list[float] = []
    for cut, tier in zip(reversed(cuts), reversed(tiers), strict=True):
        found = max(0.0, cut - STEP * steps.get(tier, 0))
        lowered.append(min([found, *lowered[-1:]]))
    return tuple(reversed(lowered))
