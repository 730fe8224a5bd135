"""How sure a replay's main figures are: 95 % intervals for another stretch of the same traffic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from app.cache.calibration import interval
from app.replay.simulate import Simulation

_BLOCKS = 200  # stretches of the log that are drawn anew: neighbours come in bursts, so they are drawn together
_LEAST = 5  # requests in each
_DRAWS = 2000
_ENDS = (2.5, 97.5)
Floats = NDArray[np.float64]


def intervals(simulation: Simulation) -> dict[str, Any]:
    """Return `[expected, low, high]` of each figure.

    Shares, sums and means are drawn anew by stretches of the log (a block bootstrap), lost requests by their number
    (Poisson), given the share of the log's that were lost (Clopper and Pearson). The gateway's own part of the latency
    is drawn with its error. What the intervals do not cover is that the tiers' latencies, prices or the lengths of
    answers are other than assumed.

    Returns:
        `cost_change`, `mean_s`, `latency_ratio`, `hit_rate`, `tiers` by name, `token_cut` (of the answers that tiers
        give, by their shape alone) and `reliability`.
    """
    costs, replayed, routed = simulation.costs, simulation.replayed, simulation.routed
    names = [tier.name for tier in simulation.config.tiers]
    drawn, assumed = _Stretches(replayed.columns["time"]), simulation.config.replay
    hit_s = np.where(replayed.exact, assumed.exact_hit_s, assumed.semantic_hit_s)
    sums = {
        "all": drawn.sums(np.broadcast_to(1, len(routed))),
        "before_usd": drawn.sums(costs.before_usd),
        "after_usd": drawn.sums(simulation.after_usd),
        "answered": drawn.sums(replayed.answered),
        "before_s": drawn.sums(np.where(replayed.answered, costs.before_s, 0.0)),
        "after_s": drawn.sums(simulation.after_s)
        + drawn.errors(assumed.own_error) * drawn.sums(np.where(routed, assumed.miss_s, hit_s)),
        "hits": drawn.sums(~routed),
        "logged": drawn.sums(np.where(routed, costs.logged.completion, 0.0)),
        "shaped": drawn.sums(np.where(routed, costs.shaped.completion, 0.0)),
        **{f"tier {name}": drawn.sums(routed & (costs.tier == place)) for place, name in enumerate(names)},
    }
    return {
        "cost_change": _ends(sums["after_usd"] - sums["before_usd"], sums["before_usd"]),
        "mean_s": _ends(sums["after_s"], sums["all"]),
        "latency_ratio": _ends(sums["before_s"] * sums["all"], sums["after_s"] * sums["answered"]),
        "hit_rate": _ends(sums["hits"], sums["all"]),
        "tiers": {name: _ends(sums[f"tier {name}"], sums["all"]) for name in names},
        "token_cut": _ends(sums["logged"] - sums["shaped"], sums["logged"]),
        "reliability": _reliability(simulation),
    }


def lost(simulation: Simulation, failed: float) -> float:
    """Return how many requests are lost, if each call fails with that probability.

    A hit cannot fail. A tier is asked as often as its policy says, then the stronger ones are.
    """
    tiers = simulation.config.tiers
    asked = [len(tier.targets) + bool(tier.llm) for tier in tiers]
    calls = np.array(
        [tier.policy.retry.rounds * number if tier.targets else 1 for tier, number in zip(tiers, asked, strict=True)]
    )
    left = np.cumsum(calls[::-1])[::-1]  # from each tier on
    return float((failed ** left[simulation.costs.tier[simulation.routed]]).sum())


def _reliability(simulation: Simulation) -> list[float]:
    ok, count = np.asarray(simulation.replayed.columns["ok"]), len(simulation.routed)
    failed = int((~ok.astype(bool)).sum())
    low, high = (lost(simulation, share) for share in interval(failed, count))
    most, fewest = stats.poisson.ppf(0.975, high), stats.poisson.ppf(0.025, low)
    expected = lost(simulation, failed / count)
    return [round(1 - number / count, 6) for number in (expected, float(most), max(0.0, float(fewest)))]


class _Stretches:
    """Stretches of a log by time, and how often each is drawn."""

    def __init__(self, times: Floats) -> None:
        blocks = max(1, min(_BLOCKS, len(times) // _LEAST))
        edges = np.linspace(0, len(times), blocks, endpoint=False).astype(int)
        order = np.argsort(times, kind="stable")
        self._of = np.empty(len(times), np.int16)
        self._of[order] = np.searchsorted(edges, np.arange(len(times)), side="right") - 1
        drawn = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), _DRAWS)
        self._weights = np.concatenate([np.ones((1, blocks), drawn.dtype), drawn])

    def sums(self, column: NDArray[Any]) -> Floats:
        """Return the sums of a column, `(1 + draws,)`: as it is, then over stretches drawn with replacement."""
        by_stretch = np.bincount(self._of, weights=column, minlength=self._weights.shape[1])
        return np.asarray(self._weights @ by_stretch, np.float64)

    def errors(self, half_width: float) -> Floats:
        """Return relative errors, `(1 + draws,)`: none, then normal ones with that half-width at 95 % confidence."""
        drawn = np.random.default_rng(1).normal(0, half_width / stats.norm.ppf(0.975), _DRAWS)
        return np.concatenate([[0.0], np.maximum(drawn, -1.0)])


def _ends(parts: Floats, wholes: Floats) -> list[float]:
    """Return a ratio with its ends; of nothing it is 0."""
    ratios = np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0)
    low, high = np.percentile(ratios[1:], _ENDS)
    return [round(float(value), 5) for value in (ratios[0], low, high)]
