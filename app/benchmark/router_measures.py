"""How well scores route: RouteLLM's measures, the tier that each prompt needs, and what routing saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.classifier.calibration import Array, Outcomes, frontier, point
from app.evaluation import auc

KEPT = 0.95  # of the top tier's quality
QUALITIES = (0.8, 0.85, 0.9, KEPT, 0.98, 1.0)
_ROUNDS = 300  # of the bootstrap


def gap_recovered(scores: Array, weak: Array, strong: Array) -> tuple[Array, Array]:
    """Ask the strong model for the hardest prompts first, and say how much of the performance gap that recovers.

    The measures of Ong et al., RouteLLM, arXiv 2406.18665, but at every prompt where their code has ten quantiles.
    Prompts of one score have a straight line between their ends, which is what asking some of them at random comes to.

    Args:
        scores: `(n,)`, difficulty on any scale.
        weak: `(n,)`, what the weak model's answers were worth; `strong` the same, and more in the mean.

    Returns:
        The share of prompts that the strong model is asked, rising from 0 to 1, and the performance gap recovered
        there: 0 is the weak model's mean quality, 1 the strong one's.
    """
    order = np.argsort(-scores, kind="stable")
    gained = np.cumsum((strong - weak)[order])
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    share = np.append(0.0, (ends + 1) / len(scores))
    return share, np.append(0.0, gained[ends] / gained[-1])


def average_gap_recovered(scores: Array, weak: Array, strong: Array) -> float:
    """Return the APGR: the performance gap recovered, averaged over all shares of strong calls; 0.5 by chance."""
    share, recovered = gap_recovered(scores, weak, strong)
    return float(np.trapezoid(recovered, share))


def call_threshold(scores: Array, weak: Array, strong: Array, wanted: float) -> float:
    """Return the CPT: the least share of strong calls that recovers `wanted` of the performance gap."""
    share, recovered = gap_recovered(scores, weak, strong)
    end = int(np.argmax(recovered >= wanted))  # the first; at the last it is 1
    return float(np.interp(wanted, recovered[end - 1 : end + 1], share[end - 1 : end + 1]))


def strong_calls(scores: Array, weak: Array, strong: Array, seed: int = 0) -> dict[str, Any]:
    """Return `apgr` with its 95 % bootstrap interval, `cpt50`, `cpt80`; nothing where the strong model is no better."""
    if strong.mean() <= weak.mean():
        return {}
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(_ROUNDS):
        rows = draw.integers(0, len(scores), len(scores))
        if strong[rows].mean() > weak[rows].mean():
            found.append(average_gap_recovered(scores[rows], weak[rows], strong[rows]))
    return {
        "apgr": round(average_gap_recovered(scores, weak, strong), 4),
        "apgr_95": [round(float(end), 4) for end in np.percentile(found, [2.5, 97.5])],
        "cpt50": round(call_threshold(scores, weak, strong, 0.5), 4),
        "cpt80": round(call_threshold(scores, weak, strong, 0.8), 4),
    }


def placed(scores: Array, cuts: Sequence[float], needed: NDArray[np.int64]) -> dict[str, Any]:
    """Compare the tier that the scores choose with the one each prompt needs, 0 to 2.

    `confusion` has a row for each needed tier, a column for each chosen one.
    """
    got = np.searchsorted(np.asarray(cuts), scores, side="right")
    tiers = range(len(cuts) + 1)
    return {
        "confusion": [[int(np.sum((needed == need) & (got == tier))) for tier in tiers] for need in tiers],
        "auc_small_suffices": auc(scores, needed > 0),
        "auc_large_needed": auc(scores, needed > 1),
        "right_tier": round(float(np.mean(got == needed)), 4),
        "hard_to_small": int(np.sum((needed == 2) & (got == 0))),
    }


def saved(outcomes: Outcomes) -> dict[str, Any]:
    """Return the share of the bill that the cheapest cut points save which keep `KEPT` of the top tier's quality.

    The cut points are chosen on the same rows: what the order of the scores allows, not what was promised before.

    Returns:
        `saved`; `usd_per_1k`: what a thousand requests cost at the least, for each of `QUALITIES`.
    """
    points = frontier(outcomes)
    least = {kept: min(choice.usd_per_1k for choice in points if choice.quality_kept >= kept) for kept in QUALITIES}
    return {
        "saved": round(1 - least[KEPT] / float(1000 * outcomes.cost[:, -1].mean()), 4),
        "usd_per_1k": [round(usd, 4) for usd in least.values()],
    }


def cascaded(outcomes: Outcomes, cuts: Sequence[float], margin: float) -> dict[str, Any]:
    """Bracket what a cascade does for prompts less than `margin` above a cut point.

    The real check reads the answer and its tokens, which outcomes do not have. So there are two checks: one that keeps
    every cheap answer, and one that keeps those that are as good as the dearer tier's, which no real check is sure of.

    Returns:
        `tried`, the share of prompts; and for each check `saved`, of the bill of routing without a cascade, and
        `quality_kept`, of always asking the top tier. `quality_kept` beside them is routing's without a cascade.
    """
    rows = np.arange(len(outcomes.scores))
    tier = outcomes.routed(cuts)
    below = np.maximum(tier - 1, 0)
    near = (tier > 0) & (outcomes.scores - np.asarray(cuts)[below] < margin)
    quality, cost = outcomes.quality[rows, tier], outcomes.cost[rows, tier]
    cheap_quality, cheap_cost = outcomes.quality[rows, below], outcomes.cost[rows, below]

    def with_check(kept: NDArray[np.bool_]) -> dict[str, float]:
        kept = kept & near
        paid = np.where(kept, 0.0, cost) + np.where(near, cheap_cost, 0.0)
        worth = np.where(kept, cheap_quality, quality).mean() / outcomes.quality[:, -1].mean()
        return {"saved": round(float(1 - paid.sum() / cost.sum()), 4), "quality_kept": round(float(worth), 4)}

    return {
        "tried": round(float(near.mean()), 4),
        "quality_kept": round(point(outcomes, cuts).quality_kept, 4),
        "keeps_all": with_check(np.ones(len(rows), bool)),
        "keeps_the_good": with_check(cheap_quality >= quality),
    }


def averaged(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each figure; one that does not exist is None in every draw."""
    first = draws[0]
    return {
        name: None if first[name] is None else np.mean([draw[name] for draw in draws], axis=0).round(4).tolist()
        for name in first
    }
