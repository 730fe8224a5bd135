"""Cut points with evidence: the cheapest that keep a promised share of the top tier's quality, by a lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError
from app.record import load_record, save_record

_GRID = 40  # quantiles of the scores that are tried as cut points
_LEAST_ROWS = 100  # half of them show a share of 95 % to some 6 points; fewer show nothing
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What each tier's answer to each prompt was worth.

    Attributes:
        scores: `(n,)`, difficulty by the classifier.
        quality: `(n, tiers)` in [0, 1], tiers by rising price.
        cost: `(n, tiers)` in USD.
    """

    scores: Array
    quality: Array
    cost: Array

    def take(self, rows: NDArray[Any]) -> Outcomes:
        """Return some of the rows."""
        return Outcomes(self.scores[rows], self.quality[rows], self.cost[rows])

    def routed(self, cuts: Sequence[float]) -> NDArray[np.int64]:
        """Return the tier of each row, `(n,)`: as many cut points as it reaches."""
        return np.searchsorted(np.asarray(cuts), self.scores, side="right")


@dataclass(frozen=True, slots=True)
class RouterPoint:
    """A choice of cut points, and what it does to some outcomes.

    Attributes:
        cuts: Rising, one fewer than the tiers: the score from which the next tier is asked.
        quality_kept: Mean quality over that of always asking the top tier.
        usd_per_1k: Cost of 1,000 requests.
        shares: Of the requests, by tier.
    """

    cuts: tuple[float, ...]
    quality_kept: float
    usd_per_1k: float
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RouterCalibration:
    """Cut points and the evidence for them.

    Attributes:
        cuts: See `RouterPoint`.
        max_scores: The tiers' `max_score` that the cut points stand for, the last at 1.
        quality: The promise: share of the top tier's quality that is kept, or None under a budget.
        confidence: Of the promise.
        rows: Outcomes that it was tested on, unseen when the candidates were chosen.
        quality_kept: Of those rows.
        usd_per_1k: Of those rows; `usd_per_1k_top` if all went to the top tier.
        shares: Of those rows, by tier.
        classifier: The name of the classifier; with another the cut points mean nothing.
        data: SHA-256 of the outcomes.
    """

    cuts: tuple[float, ...]
    max_scores: tuple[float, ...]
    quality: float | None
    confidence: float
    rows: int
    quality_kept: float
    usd_per_1k: float
    usd_per_1k_top: float
    shares: tuple[float, ...]
    classifier: str
    data: str

    @classmethod
    def load(cls, file: Path) -> RouterCalibration:
        """Read a calibration.

        Raises:
            ConfigError: There is none, or it has other fields.
        """
        return load_record(cls, file, "classifier.calibration", "tierwise calibrate router OUTCOMES.jsonl")

    def mapped(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Stretch scores `(n,)` between the cut points, so that a cut point becomes its tier's `max_score`."""
        tier = np.searchsorted(self.cuts, scores, side="right")
        low, high = np.array([0.0, *self.cuts])[tier], np.array([*self.cuts, 1.0])[tier]
        # float32(0.7) is below 0.7, so that `plan` would send the score at the cut point a tier down
        bounds = np.array([0.0, *self.max_scores])
        rounded = bounds.astype(np.float32)
        rounded = np.where(rounded < bounds, np.nextafter(rounded, np.float32(np.inf)), rounded)
        floor, ceiling = rounded[tier], rounded[tier + 1]
        share = np.clip((scores - low) / np.maximum(high - low, 1e-9), 0, 1)
        below = np.where(tier < len(self.cuts), np.nextafter(ceiling, np.float32(0)), ceiling)
        return np.asarray(np.minimum(floor + share * (ceiling - floor), below), np.float32)

    def save(self, file: Path) -> None:
        """Write the calibration."""
        save_record(self, file)


def point(outcomes: Outcomes, cuts: Sequence[float]) -> RouterPoint:
    """Say what cut points do to outcomes."""
    tier = outcomes.routed(cuts)
    rows = np.arange(len(tier))
    shares = np.bincount(tier, minlength=outcomes.quality.shape[1]) / len(tier)
    return RouterPoint(
        tuple(float(cut) for cut in cuts),
        float(outcomes.quality[rows, tier].mean() / outcomes.quality[:, -1].mean()),
        float(1000 * outcomes.cost[rows, tier].mean()),
        tuple(round(float(share), 4) for share in shares),
    )


def frontier(outcomes: Outcomes) -> list[RouterPoint]:
    """Return the cut points that no others beat in both quality and cost, by falling cost; all to the top first."""
    tiers = outcomes.quality.shape[1]
    grid = np.unique(np.quantile(outcomes.scores, np.linspace(0, 1, _GRID)))
    grid = np.append(grid, np.nextafter(grid[-1], np.inf))  # beyond every score: nobody goes further up
    combinations = np.array(np.meshgrid(*[grid] * (tiers - 1))).reshape(tiers - 1, -1).T
    rising = combinations[np.all(np.diff(combinations, axis=1) >= 0, axis=1)]
    points = sorted((point(outcomes, cuts) for cuts in rising), key=lambda p: (p.usd_per_1k, -p.quality_kept))
    best: list[RouterPoint] = []
    for candidate in points:
        if not best or candidate.quality_kept > best[-1].quality_kept:
            best.append(candidate)
    top = point(outcomes, [grid[0]] * (tiers - 1))
    return [top, *(p for p in reversed(best) if p.usd_per_1k < top.usd_per_1k)]


def p_value(gains: Array, seed: int = 0) -> float:
    """Return a p-value of "the mean of these bounded numbers is at most 0".

    One over the last wealth of a bettor against it, whose stakes hang on the past alone (Waudby-Smith and Ramdas,
    Estimating means of bounded random variables by betting, arXiv 2010.09686). The highest wealth would do as well, but
    would let the luck of the first rows decide.

    Args:
        gains: `(n,)`, each at least -1.
    """
    shuffled = np.random.default_rng(seed).permutation(gains)
    count = np.arange(1, len(shuffled) + 1)
    mean = np.concatenate([[0.0], (np.cumsum(shuffled) / (count + 1))[:-1]])
    square = np.concatenate([[0.25], ((np.cumsum(shuffled**2) + 0.25) / (count + 1))[:-1]])
    stakes = np.clip(mean / np.maximum(square, 1e-9), 0.0, 0.5)
    return float(min(1.0, np.exp(-np.log1p(stakes * shuffled).sum())))


def halves(outcomes: Outcomes, seed: int = 0) -> tuple[Outcomes, Outcomes]:
    """Split the rows at random: one half to choose cut points on, the other to test them on.

    Raises:
        ConfigError: There are too few rows, or the top tier solves none of a half; says what data it takes.
    """
    count = len(outcomes.scores)
    if count < _LEAST_ROWS:
        raise ConfigError(
            f"cut points are chosen on one half of the rows and tested on the other, which takes {_LEAST_ROWS} rows or "
            f"more with an outcome for each tier; there are {count}"
        )
    order = np.random.default_rng(seed).permutation(count)
    parts = outcomes.take(order[: count // 2]), outcomes.take(order[count // 2 :])
    if not all(part.quality[:, -1].any() for part in parts):
        raise ConfigError(
            f"the top tier's outcome is above 0 in {np.count_nonzero(outcomes.quality[:, -1])} of {count} rows: the "
            "quality kept is a share of the top tier's, so give more rows that it answers well"
        )
    return parts


def last_that_keeps(
    tested: Outcomes, candidates: Sequence[RouterPoint], quality: float, confidence: float, seed: int = 0
) -> RouterPoint | None:
    """Test cut points in their order, each at the full confidence, and return the last before the first that fails.

    Fixed sequence testing (Angelopoulos et al., Learn then Test, arXiv 2110.01052), so that the rows must not have
    chosen the candidates or their order.

    Args:
        quality: Share of the quality of always asking the top tier.
    """
    rows, chosen = np.arange(len(tested.scores)), None
    for candidate in candidates:
        gains = tested.quality[rows, tested.routed(candidate.cuts)] - quality * tested.quality[:, -1]
        if p_value(gains, seed) > 1 - confidence:
            break
        chosen = candidate
    return chosen


def calibrate_router(
    outcomes: Outcomes,
    max_scores: Sequence[float],
    quality: float,
    confidence: float,
    classifier: str,
    data: str,
    seed: int = 0,
) -> RouterCalibration:
    """Pick the cheapest cut points whose quality kept is at least `quality`, at `confidence`.

    Half of the rows give the frontier of candidates, by falling cost; on the other half each is tested in that order,
    see `last_that_keeps`.

    Args:
        quality: Share of the quality of always asking the top tier, in (0, 1).

    Raises:
        ConfigError: The data cannot support the promise with anything cheaper than the top tier, or as `halves` does.
    """
    seen, tested = halves(outcomes, seed)
    chosen = last_that_keeps(tested, frontier(seen)[1:], quality, confidence, seed)
    if chosen is None:
        raise ConfigError(
            f"the data cannot support {quality:.1%} of the top tier's quality at {confidence:.0%} confidence with "
            f"anything cheaper, on {len(tested.scores)} rows: give more outcomes, or a lower --quality"
        )
    found = point(tested, chosen.cuts)
    return _calibration(found, max_scores, quality, confidence, tested, classifier, data)


def calibrate_budget(
    outcomes: Outcomes,
    max_scores: Sequence[float],
    usd_per_1k: float,
    confidence: float,
    classifier: str,
    data: str,
    seed: int = 0,
) -> RouterCalibration:
    """Pick the cut points of the best quality that cost at most `usd_per_1k` for 1,000 requests.

    They are chosen on half of the rows, and cost no more on the other half, whose figures are those that are given.

    Raises:
        ConfigError: Even the cheapest costs more, or as `halves` does.
    """
    seen, tested = halves(outcomes, seed)
    candidates = sorted(frontier(seen), key=lambda candidate: -candidate.quality_kept)
    for candidate in candidates:
        found = point(tested, candidate.cuts)
        if max(candidate.usd_per_1k, found.usd_per_1k) <= usd_per_1k:
            return _calibration(found, max_scores, None, confidence, tested, classifier, data)
    least = max(candidates[-1].usd_per_1k, point(tested, candidates[-1].cuts).usd_per_1k)
    raise ConfigError(f"no cut points cost ${usd_per_1k:g} per 1,000 requests or less; the cheapest cost ${least:.4g}")


def _calibration(
    found: RouterPoint,
    max_scores: Sequence[float],
    quality: float | None,
    confidence: float,
    rows: Outcomes,
    classifier: str,
    data: str,
) -> RouterCalibration:
    return RouterCalibration(
        found.cuts,
        tuple(max_scores),
        quality,
        confidence,
        len(rows.scores),
        found.quality_kept,
        found.usd_per_1k,
        float(1000 * rows.cost[:, -1].mean()),
        found.shares,
        classifier,
        data,
    )
