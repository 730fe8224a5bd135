"""A replay's figures by tenant, route, model, profile, hour or day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.replay.run import Labels
from app.replay.simulate import Simulation

_MOST = 50
Floats = NDArray[np.float64]


class Groups:
    """Sums up requests by any label of theirs.

    Args:
        wrong: Share of the hits by meaning that are expected to be wrong, with its interval; None where nothing is.
    """

    def __init__(self, simulation: Simulation, wrong: Sequence[float] | None) -> None:
        self._simulation = simulation
        self._wrong = wrong
        self._hit = simulation.replayed.hit
        self._meant = self._hit & ~simulation.replayed.exact
        self._weak = list(_weak(simulation))

    def by(self, labels: Labels, by_name: bool = False, most: int = _MOST) -> list[dict[str, Any]]:
        """Return each group's figures; of the groups that cost most before, or of all in the order of their names.

        Returns:
            `name`, `requests`, `hit_rate`, `before_usd`, `after_usd`, `before_s` (mean of the answered), `after_s`
            (mean), the shares of the requests that the cache and each tier answer in `tiers`, and as `[estimate, low,
            high]`, or None where it is not known, `expected_false_hits` (of the group's hits) and `quality_kept` (of
            what is routed).
        """
        made, size = self._simulation, len(labels.names)

        def total(values: NDArray[Any]) -> Floats:
            return np.asarray(np.bincount(labels.index, weights=values, minlength=size), np.float64)

        count = np.maximum(np.bincount(labels.index, minlength=size), 1)
        hits, meant, before, after = map(total, (self._hit, self._meant, made.costs.before_usd, made.after_usd))
        answered = made.replayed.answered
        before_s = total(np.where(answered, made.costs.before_s, 0.0)) / np.maximum(total(answered), 1)
        after_s = total(made.after_s)
        tiers = {"cache": hits, **{name: total(of) for name, of in self._routed()}}
        weak = [total(of) / np.maximum(count - hits, 1) for of in self._weak]
        order = np.argsort(np.array(labels.names, object)) if by_name else np.argsort(-before, kind="stable")
        return [
            {
                "name": labels.names[i] or "(none)",
                "requests": int(count[i]),
                "hit_rate": round(float(hits[i] / count[i]), 4),
                "before_usd": round(float(before[i]), 4),
                "after_usd": round(float(after[i]), 4),
                "before_s": round(float(before_s[i]), 3),
                "after_s": round(float(after_s[i] / count[i]), 3),
                "tiers": {name: round(float(of[i] / count[i]), 4) for name, of in tiers.items()},
                "expected_false_hits": self._wrong
                and [round(float(share * meant[i] / max(hits[i], 1)), 6) for share in self._wrong],
                "quality_kept": [round(1 - float(of[i]), 4) for of in weak] or None,
            }
            for i in order[:most]
        ]

    def _routed(self) -> list[tuple[str, NDArray[np.bool_]]]:
        made = self._simulation
        places = enumerate(tier.name for tier in made.config.tiers)
        return [(name, made.routed & (made.costs.tier == place)) for place, name in places]


def _weak(simulation: Simulation) -> list[Floats]:
    """Return how probably each request's tier is too weak, `(rows,)`: estimate, worst, best; 0 for a hit."""
    if simulation.quality is None:
        return []
    replayed, found = simulation.replayed, simulation.quality
    scores = replayed.score.astype(float)
    return [
        replayed.keep(np.where(simulation.routed, found.weak(scores, simulation.costs.tier, end), 0.0))
        for end in (0, 2, 1)
    ]


def clock(times: Floats, form: str) -> Labels:
    """Label times by a part of their date in UTC."""
    hours, index = np.unique((times // 3600).astype(np.int64), return_inverse=True)
    names = [datetime.fromtimestamp(int(hour) * 3600, UTC).strftime(form) for hour in hours]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Labels(np.array([places[name] for name in names], np.int32)[index], list(places))
