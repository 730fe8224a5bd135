"""A replay in money and time: what the gateway would have cost and taken, and what other settings would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.cache import CacheConfig
from app.cache.calibration import upper_bound
from app.config import GatewayConfig
from app.replay.costs import Costs
from app.replay.quality import QualityModel, fitted, seen
from app.replay.run import MONTH_S, Labels, Replayed
from app.replay.settings import (
    CacheChoice,
    RouteChoice,
    RoutePoint,
    ThresholdPoint,
    cache_choices,
    route_choices,
    route_points,
    thresholds,
)

_IN_FLIGHT = "miss in flight"
_WRONG_BY_REQUESTS = 10  # a wrong answer costs as much as so many requests, unless the configuration says
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Simulation:
    """A replay in money and time, `(rows,)` each.

    Attributes:
        after_usd: With the gateway; `after_s` likewise.
        routed: Whether a tier answers: every request that is no hit.
        present: The cache's threshold in force.
        wrong_usd: What a wrong answer costs.
    """

    replayed: Replayed
    config: GatewayConfig
    costs: Costs
    after_usd: Floats
    after_s: Floats
    routed: NDArray[np.bool_]
    quality: QualityModel | None
    present: float
    wrong_usd: float
    thresholds: Sequence[ThresholdPoint]
    cache_choices: Sequence[CacheChoice]
    route_points: Sequence[RoutePoint]
    route_choices: Sequence[RouteChoice]

    @property
    def a_month(self) -> float:
        """What a sum over the log is multiplied by to make a month's."""
        return MONTH_S / 86400 / self.replayed.days

    def best_cache(self) -> CacheChoice | None:
        """Return the limit of wrong hits that saves most, net."""
        return max(self.cache_choices, key=lambda choice: choice.net_usd, default=None)

    def best_route(self) -> RouteChoice | None:
        """Return the quality that saves most, net; None where a calibration has set the cut points."""
        if self.config.classifier.calibration is not None:
            return None
        return max(self.route_choices, key=lambda choice: choice.net_usd, default=None)


def simulate(replayed: Replayed, costs: Costs, config: GatewayConfig) -> Simulation:
    """Price and time what the gateway would have done, and judge other settings."""
    assumed, rows = config.replay, np.arange(len(costs.tier))
    miss_s = assumed.miss_s + costs.tier_s[rows, costs.tier]
    replayed, wait_s = answered_in_time(replayed, miss_s, config.cache.coalesce)
    hit = replayed.hit
    after_usd = np.where(hit, 0.0, costs.tier_usd[rows, costs.tier])
    hit_s = np.where(replayed.exact, assumed.exact_hit_s, assumed.semantic_hit_s)
    after_s = np.where(hit, hit_s + wait_s, miss_s)
    present, calibrated = _threshold(config.cache)
    wrong_usd = assumed.wrong_answer_usd
    if wrong_usd is None:
        wrong_usd = _WRONG_BY_REQUESTS * float(costs.before_usd.mean())
    found = seen(config.classifier)
    max_scores = [tier.max_score for tier in config.tiers]
    scores, tiers = replayed.score[~hit].astype(float), costs.tier[~hit]
    model = fitted(found, scores, tiers, max_scores) if found else None
    points = thresholds(replayed, costs, present, calibrated)
    routes = route_points(replayed, costs, model, ~hit) if model else []
    bound = ~costs.routes.free  # where they go, wherever the cut points are
    top_usd = float(np.where(bound, after_usd, costs.tier_usd[:, -1])[~hit].sum())
    return Simulation(
        replayed,
        config,
        costs,
        replayed.keep(after_usd),
        replayed.keep(after_s),
        replayed.keep(~hit),
        model,
        present,
        wrong_usd,
        points,
        cache_choices(points, wrong_usd),
        routes,
        route_choices(routes, int((~hit & ~bound).sum()), top_usd, wrong_usd),
    )


def answered_in_time(replayed: Replayed, miss_s: Floats, coalesce: bool) -> tuple[Replayed, Floats]:
    """Take back hits whose answer was still under way: nobody finds it by meaning before it is stored.

    Args:
        miss_s: What each request takes as a miss, `(rows,)`.
        coalesce: Whether an identical request waits for it.

    Returns:
        The replay without those hits, and how long each of the others waits.
    """
    times, served = np.asarray(replayed.columns["time"]), np.maximum(replayed.served, 0)
    known = replayed.hit & (replayed.served >= 0)
    wait_s = np.where(known, np.maximum(0.0, times[served] + miss_s[served] - times), 0.0)
    early = (wait_s > 0) & ~(replayed.exact & coalesce)
    reason = replayed.reason
    moved = np.where(early, len(reason.names), reason.index)
    kept = replace(
        replayed,
        reason=Labels(replayed.keep(moved.astype(np.int32)), [*reason.names, _IN_FLIGHT]),
        served=replayed.keep(np.where(early, -1, replayed.served).astype(np.int32)),
    )
    return kept, np.where(early, 0.0, wait_s)


def _threshold(config: CacheConfig) -> tuple[float, tuple[float, float]]:
    """Return the threshold in force, and the share of wrong hits that its calibration found, with its 95 % bound."""
    if config.threshold is not None:
        return config.threshold, (0.0, 0.0)
    made = config.calibrated()
    return made.threshold, (made.wrong / made.hits, upper_bound(made.wrong, made.hits, 0.95))
