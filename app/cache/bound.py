"""The bound on wrong hits, kept while the cache runs: what checks say of a scope, and how its threshold moves.

A scope's threshold is the calibrated one plus some steps. Checked hits whose share of wrong ones is above the limit, by
a lower confidence bound, make it a step stricter; near misses just below it that would have been right, by an upper
bound, make it a step looser. Either starts the counts anew, since they were made at another threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy.optimize import brentq
from scipy.special import betaln

STEP = 0.01  # of evidence
LOOSEST = -5  # steps below the calibrated threshold that near misses can lead to
_PRIOR = (0.5, 9.5)  # of the mixture below: most power for shares of some per cent


@dataclass(frozen=True, slots=True)
class Tally:
    """Checks made, and how many found a wrong answer."""

    checked: int = 0
    wrong: int = 0

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the share of wrong ones as an interval that holds at every time at once, however often one looks.

        A beta-binomial mixture's confidence sequence: Robbins' method of mixtures (Howard et al., Time-uniform,
        nonparametric, nonasymptotic confidence sequences, arXiv 1810.08240).

        Args:
            confidence: Of both ends together, below 1.

        Returns:
            Lower and upper end in [0, 1].
        """
        if not self.checked:
            return 0.0, 1.0
        a, b = _PRIOR
        right = self.checked - self.wrong
        mixture = float(betaln(a + self.wrong, b + right) - betaln(a, b)) + math.log(1 - confidence)

        def outside(share: float) -> float:
            """Positive where the mixture beats this share by more than chance allows."""
            return mixture - self.wrong * math.log(share) - right * math.log1p(-share)

        tiny, likeliest = 1e-9, min(max(self.wrong / self.checked, 1e-8), 1 - 1e-8)
        low = float(brentq(outside, tiny, likeliest)) if outside(tiny) > 0 else 0.0
        high = float(brentq(outside, likeliest, 1 - tiny)) if outside(1 - tiny) > 0 else 1.0
        return low, high


@dataclass(frozen=True, slots=True)
class Bound:
    """What is known of a scope, or of all of them together.

    Attributes:
        steps: How many steps its threshold is above the calibrated one; below it, if negative.
        hits: Checked hits.
        near: Checked misses less than a step below the threshold: wrong, if the stored answer would have been.
    """

    steps: int = 0
    hits: Tally = Tally()
    near: Tally = Tally()

    def move(self, limit: float, confidence: float, others: int = 0) -> int:
        """Return the step that the checks call for: 1, 0 or -1; more than 1 where one would be lost below `LOOSEST`.

        Args:
            limit: Highest share of wrong hits.
            others: Steps that add to these: those of all scopes, for a scope.
        """
        if self.hits.interval(confidence)[0] > limit:
            return total(self.steps, others) + 1 - self.steps - others
        # one step further down, every hit that this adds is one of these
        return -1 if self.steps + others > LOOSEST and self.near.interval(confidence)[1] <= limit else 0

    def moved(self, steps: int) -> Bound:
        """Return the bound after a move, its counts begun anew."""
        return replace(self, steps=self.steps + steps, hits=Tally(), near=Tally())


def total(steps: int, others: int) -> int:
    """Add the steps of a scope and of all, no looser together than either may be alone."""
    return max(steps + others, LOOSEST)
