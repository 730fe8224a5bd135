"""Other settings on the same evidence: thresholds of the cache and cut points of the router, and the best of each.

An approximation: the log is not played again. A stricter threshold drops the hits that have less evidence, a looser one
adds the misses that have enough of it; what this changes for later requests, by what is stored, is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.cache.calibration import upper_bound
from app.cache.decision import SURFACE
from app.replay.costs import Costs
from app.replay.quality import QualityModel
from app.replay.run import Replayed
from app.replay.work import ALIKE, DIFFERENT, SAME

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
QUALITIES = (0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
CONFIDENCE = 0.95
_LOOSER, _STRICTER, _STEP = 0.10, 0.15, 0.01  # thresholds that are looked at, around the present one
_BINS = 50  # of the score
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThresholdPoint:
    """A threshold of the cache.

    Attributes:
        wrong: Share of the hits by meaning that are wrong, of those whose answers could be compared;
        upper: its one-sided 95 % bound;
        compared: and how many those are.
        saved_usd: What those hits would have cost, routed.
    """

    threshold: float
    hits: int
    wrong: float
    upper: float
    compared: int
    saved_usd: float


def thresholds(
    replayed: Replayed, costs: Costs, present: float, calibrated: tuple[float, float] = (0.0, 0.0)
) -> list[ThresholdPoint]:
    """Judge thresholds by the logged answers, strict ones first.

    That answers are alike to the models does not show that a hit was right: they may confuse what the threshold is to
    keep apart. So they do not speak for a looser threshold, nor for fewer wrong hits than the calibration found.

    Args:
        calibrated: The share of wrong hits at the present threshold, and its bound, as the calibration has it.
    """
    meant = replayed.hit & ~replayed.exact
    surface = meant & np.isnan(replayed.evidence)
    evidence = np.where(surface, SURFACE, np.nan_to_num(replayed.evidence, nan=-1.0))
    able = meant | (replayed.near >= 0)
    worth = costs.tier_usd[np.arange(len(able)), costs.tier]
    says = replayed.compared[:, 2]
    told = replayed.compared[np.isin(says, (SAME, DIFFERENT)) | ((says == ALIKE) & meant[replayed.compared[:, 0]])]
    rows, wrong = told[:, 0], told[:, 2] == DIFFERENT
    points = []
    for threshold in np.arange(present + _STRICTER, present - _LOOSER - _STEP / 2, -_STEP):
        served = able & (evidence >= threshold - 1e-9)
        groups = [(int((served & those).sum()), wrong[served[rows] & those[rows]]) for those in (meant, ~meant)]
        expected = sum(count * _share(found) for count, found in groups) / max(int(served.sum()), 1)
        among = served[rows]
        share, upper = calibrated if (told[among, 2] == ALIKE).any() else (0.0, 0.0)
        points.append(
            ThresholdPoint(
                round(float(threshold), 4),
                int(served.sum()),
                max(expected, share),
                max(_upper(groups), upper),
                int(among.sum()),
                float(worth[served].sum()),
            )
        )
    return points


def _upper(groups: Sequence[tuple[int, NDArray[np.bool_]]]) -> float:
    """Bound the share of wrong hits: of hits and of misses apart, since they were not sampled alike."""
    there = [(count, wrong) for count, wrong in groups if count]
    among = sum(count for count, _ in there)
    confidence = 1 - (1 - CONFIDENCE) / max(len(there), 1)  # all of the bounds must hold
    bounds = [count * (upper_bound(int(w.sum()), len(w), confidence) if len(w) else 1.0) for count, w in there]
    return sum(bounds) / among if among else 1.0


def _share(wrong: NDArray[np.bool_]) -> float:
    return float(wrong.mean()) if len(wrong) else 0.0


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """The loosest threshold that keeps a limit of wrong hits, and what it saves, less what wrong answers cost."""

    max_error_rate: float
    point: ThresholdPoint
    net_usd: float


def cache_choices(points: Sequence[ThresholdPoint], wrong_usd: float) -> list[CacheChoice]:
    """Return what each limit allows, if the log has answers enough to show it; tested from strict to loose."""
    choices = []
    for rate in RATES:
        point = _loosest(points, rate)
        if point is not None:
            choices.append(CacheChoice(rate, point, point.saved_usd - point.wrong * point.hits * wrong_usd))
    return choices


def _loosest(points: Sequence[ThresholdPoint], rate: float) -> ThresholdPoint | None:
    """Return the last threshold that adds hits before the first that fails, of those with comparisons enough."""
    needed = int(np.ceil(np.log(1 - CONFIDENCE) / np.log(1 - rate)))  # were none of them wrong
    found: ThresholdPoint | None = None
    for point in points:
        if point.compared >= needed:
            if point.upper > rate:
                break
            if found is None or point.hits > found.hits:  # none is looser than the log gives a reason for
                found = point
    return found


@dataclass(frozen=True, slots=True)
class RoutePoint:
    """Cut points, what the routed requests then cost, and the quality they keep: estimate, lower and upper end."""

    max_scores: tuple[float, ...]
    usd: float
    kept: tuple[float, float, float]
    shares: tuple[float, ...]


def route_points(replayed: Replayed, costs: Costs, model: QualityModel, routed: NDArray[np.bool_]) -> list[RoutePoint]:
    """Return the cut points that no others beat in cost and worst quality, by rising cost; all to the top tier is last.

    Requests whose tier the score alone does not decide stay where they are.
    """
    tiers = costs.tier_usd.shape[1]
    free, bound = routed & costs.routes.free, routed & ~costs.routes.free
    fixed_usd = float(costs.tier_usd[bound, costs.tier[bound]].sum())
    scores = replayed.score[free].astype(float)
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    usd = _binned(bins, (costs.tier_usd[free, t] for t in range(tiers)))
    weak = [_binned(bins, (model.weak(scores, np.full(1, t), end) for t in range(tiers))) for end in range(3)]
    count = np.bincount(bins, minlength=_BINS)
    edges = range(0, _BINS + 1, 1 if tiers <= 3 else 5)
    points = []
    for cuts in itertools.combinations_with_replacement(edges, tiers - 1):
        tier = np.searchsorted(cuts, np.arange(_BINS), side="right")
        at = np.arange(_BINS), tier
        lost = [float(of[at].sum()) / max(len(scores), 1) for of in weak]
        shares = np.bincount(tier, weights=count, minlength=tiers) / max(len(scores), 1)
        max_scores = (*(cut / _BINS for cut in cuts), 1.0)
        points.append(
            RoutePoint(
                max_scores,
                fixed_usd + float(usd[at].sum()),
                (1 - lost[0], 1 - lost[2], 1 - lost[1]),
                tuple(shares.tolist()),
            )
        )
    best: list[RoutePoint] = []
    for point in sorted(points, key=lambda point: (point.usd, -point.kept[1])):
        if not best or point.kept[1] > best[-1].kept[1] + 1e-6:
            best.append(point)
    return best


def _binned(bins: NDArray[np.int64], by_tier: Iterable[Floats]) -> Floats:
    """Sum the values of each tier, `(rows,)`, by bin: `(_BINS, tiers)`."""
    columns = [np.bincount(bins, weights=np.broadcast_to(of, len(bins)), minlength=_BINS) for of in by_tier]
    return np.asarray(np.stack(columns, axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """The cheapest cut points whose worst quality is at least this, and what they save, less what bad answers cost."""

    quality: float
    point: RoutePoint
    net_usd: float


def route_choices(points: Sequence[RoutePoint], routed: int, top_usd: float, wrong_usd: float) -> list[RouteChoice]:
    """Return what each share of the quality allows.

    Args:
        top_usd: What the requests cost if all go to the top tier.
    """
    choices = []
    for quality in QUALITIES:
        point = next((point for point in points if point.kept[1] >= quality and _usable(point.max_scores)), None)
        if point is not None:
            lost_usd = (1 - point.kept[0]) * routed * wrong_usd
            choices.append(RouteChoice(quality, point, top_usd - point.usd - lost_usd))
    return choices


def _usable(max_scores: Sequence[float]) -> bool:
    """Whether a configuration may have these: rising, and above 0."""
    return all(low < high for low, high in itertools.pairwise((0.0, *max_scores)))
