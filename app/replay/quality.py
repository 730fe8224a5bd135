"""How much of the top tier's quality routing keeps: from what the classifier was found to get wrong, as a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.cache.calibration import upper_bound
from app.classifier import ClassifierConfig
from app.classifier.calibration import RouterCalibration

_CONFIDENCE = 0.975  # of each end: 95 % of both
_SHALLOWEST, _STEEPEST = 0.1, 400.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """How often a tier below the top one was too weak for what was routed to it: `wrong` of `among`, and where."""

    wrong: int
    among: int
    source: str

    def shares(self) -> tuple[float, float, float]:
        """Return the share with its 95 % interval: estimate, lower, upper (Clopper and Pearson)."""
        low = 1 - upper_bound(self.among - self.wrong, self.among, _CONFIDENCE) if self.wrong else 0.0
        return self.wrong / self.among, low, upper_bound(self.wrong, self.among, _CONFIDENCE)


def seen(config: ClassifierConfig) -> Seen | None:
    """Read what is known of the router: its calibration, else the card of the classifier; None where neither says."""
    if config.calibration is not None:
        made = RouterCalibration.load(config.calibration.expanduser())
        among = round(made.rows * (1 - made.shares[-1]))
        wrong = min(among, max(0, round(made.rows * (1 - made.quality_kept))))
        source = f"`{config.calibration}`: {made.quality_kept:.1%} of the quality kept on {made.rows} outcomes"
        return Seen(wrong, among, source) if among else None
    try:
        held_out = config.card()["held_out"]["product"]
        rows = int(held_out["rows"])
        wrong, among = (round(rows * float(held_out[name])) for name in ("too_weak", "below_top"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    source = (
        f"the classifier's card: of {rows} held-out product prompts {among} went below the best tier, {wrong} of "
        "them to too weak a one; prompts of other kinds, such as benchmarks', may fare worse"
    )
    return Seen(wrong, among, source) if among else None


@dataclass(frozen=True, slots=True)
class QualityModel:
    """The probability that a tier is too weak for a score: a logistic curve that is one half at the tier's `max_score`.

    Attributes:
        steepness: Estimate, and those of the ends of the interval: the best quality and the worst.
    """

    max_scores: tuple[float, ...]
    steepness: tuple[float, float, float]

    def weak(self, scores: Floats, tiers: NDArray[np.int64], end: int = 0) -> Floats:
        """Return that probability for each score at its tier, `(n,)`; 0 for the top tier.

        Args:
            tiers: Their places, or one for all: `(1,)`.
            end: 0 for the estimate, 1 for the best, 2 for the worst.
        """
        return np.where(
            tiers == len(self.max_scores) - 1,
            0.0,
            _logistic(self.steepness[end] * (scores - np.array(self.max_scores)[tiers])),
        )

    def kept(self, scores: Floats, tiers: NDArray[np.int64]) -> tuple[float, float, float]:
        """Return the share of the top tier's quality that is kept: estimate, lower and upper end."""
        if not len(scores):
            return 1.0, 1.0, 1.0
        estimate, best, worst = (1 - float(self.weak(scores, tiers, end).mean()) for end in range(3))
        return estimate, worst, best


def fitted(found: Seen, scores: Floats, tiers: NDArray[np.int64], max_scores: Sequence[float]) -> QualityModel:
    """Fit the curve so that, of this log's requests below the top tier, as many are served too weakly as were seen."""
    below = tiers < len(max_scores) - 1
    distance = scores[below] - np.array(max_scores)[tiers[below]]
    estimate, low, high = (_steepness(distance, share) for share in found.shares())
    return QualityModel(tuple(max_scores), (estimate, low, high))


def _steepness(distance: Floats, share: float) -> float:
    """Return the steepness whose mean probability is the share: the steeper, the fewer below a cut are too weak."""
    if not len(distance):
        return _STEEPEST
    low, high = _SHALLOWEST, _STEEPEST
    for _ in range(50):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if _logistic(middle * distance).mean() > share else (low, middle)
    return high


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float64)
