"""Where each logged request goes: the gateway's own routing, in the log's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from app.config import GatewayConfig
from app.errors import InvalidRequestError
from app.replay.run import Labels, Replayed
from app.routing import ANYWHERE, SCORED, Needs, Route, TierBounds, cut_points, route
from app.schema import Ability, Form
from app.top_share import TopShare

UNSUPPORTED = "unsupported"  # no tier takes it; the gateway refuses such a request, and it is reckoned by the best tier


@dataclass(frozen=True, slots=True)
class Routes:
    """Where each request goes, `(rows,)`; of a hit, where it would go without the cache.

    Attributes:
        tier: The place of the first tier of its route.
        reason: Why that one, as a Route says it, or `unsupported`.
        free: Whether the score alone decides, wherever the cut points are.
    """

    tier: NDArray[np.int64]
    reason: Labels
    free: NDArray[np.bool_]


def routes_of(replayed: Replayed, config: GatewayConfig) -> Routes:
    """Route every request, by time.

    Every request is taken to be routed, whatever model it named, every tier to be up, and every answer to pass: a
    cascade and the checks of quality, which hang on answers that nobody has seen, move nothing.
    """
    columns, count = replayed.columns, len(replayed.score)
    places = {tier.name: place for place, tier in enumerate(config.tiers)}
    hit = replayed.hit
    ttl_s = config.routing.conversation_ttl_s if config.redis else 0
    talks = _Talks(columns["begun"], columns["continued"], len(places), ttl_s)
    rules = _Rules(replayed, config)
    tiers, reasons, free = np.zeros(count, np.int64), np.zeros(count, np.int32), np.zeros(count, bool)
    names: dict[str, int] = {}
    for row in np.argsort(columns["time"], kind="stable"):
        now = float(columns["time"][row])
        held = talks.held(row, now)
        found = rules.route(row, None if held < 0 else config.tiers[held].name, counts=not hit[row])
        tiers[row] = places[found.tiers[0].name]
        reasons[row] = names.setdefault(found.reason, len(names))
        free[row] = rules.free(row, found)
        talks.answered(row, max(held, int(tiers[replayed.served[row] if hit[row] else row])), now)
    keep = replayed.keep
    return Routes(keep(tiers), Labels(keep(reasons), list(names)), keep(free))


class _Rules:
    """The policy around the score, for each request."""

    def __init__(self, replayed: Replayed, config: GatewayConfig) -> None:
        self._config = config
        known = (*get_args(Ability), *get_args(Form))
        self._abilities = [frozenset(known).intersection(name.split(",")) for name in replayed.abilities.names]
        profiles = [config.profiles.get(name) for name in replayed.profile.names]
        self._permitted = [frozenset(profile.tiers if profile else ()) for profile in profiles]
        self._bounded = [config.routing.tenants.get(name, ANYWHERE) for name in replayed.tenant.names]
        self._replayed = replayed
        points = cut_points(config.tiers)
        share = config.routing.top_share
        self._top_share = None if share is None else TopShare(share, points[-1])

    def route(self, row: int, held: str | None, counts: bool) -> Route:
        """Route a request.

        Args:
            held: The tier of its conversation so far.
            counts: Whether it is one of those that the top tier has a share of.
        """
        tiers, bounds, score = self._config.tiers, self._bounds(row), float(self._replayed.score[row])
        try:
            found = route(score, self._needs(row), tiers, self._cuts(bounds), bounds, held)
        except InvalidRequestError:
            return Route(tiers[-1:], score, UNSUPPORTED)
        if self._top_share is not None and bounds.cuts is None and counts and found.tiers[-1] is tiers[-1]:
            self._top_share.add(score, forced=found.tiers[0] is tiers[-1] and found.reason not in SCORED)
        return found

    def free(self, row: int, found: Route) -> bool:
        """Whether the score alone decides on a request's tier, wherever the cut points are."""
        if found.reason not in SCORED or self._bounds(row) is not ANYWHERE:
            return False
        needs = self._needs(row)
        return all(needs.unmet(tier) is None for tier in self._config.tiers)

    def _bounds(self, row: int) -> TierBounds:
        return self._bounded[int(self._replayed.tenant.index[row])]

    def _needs(self, row: int) -> Needs:
        abilities = self._abilities[int(self._replayed.abilities.index[row])]
        return Needs(
            int(self._replayed.columns["needed_tokens"][row]),
            abilities,
            self._permitted[int(self._replayed.profile.index[row])],
        )

    def _cuts(self, bounds: TierBounds) -> list[tuple[str, Sequence[float]]]:
        points = bounds.cuts or cut_points(self._config.tiers)
        cuts: list[tuple[str, Sequence[float]]] = [("score", points)]
        if self._top_share is not None and bounds.cuts is None:
            cuts.append(("share", self._top_share.moved(points)))
        return cuts


class _Talks:
    """The tiers that each conversation has reached, as Redis keeps them.

    Args:
        begun: The conversation that each request goes on with, `(rows,)`; 0 for none.
        continued: That of its next turn.
        tiers: How many there are.
        ttl_s: How long they are remembered; 0 remembers nothing.
    """

    def __init__(self, begun: NDArray[np.uint64], continued: NDArray[np.uint64], tiers: int, ttl_s: int) -> None:
        names = np.unique(begun)  # the only ones that anybody asks for
        self._begun = np.where(begun == 0, -1, np.searchsorted(names, begun))
        place = np.minimum(np.searchsorted(names, continued), len(names) - 1)
        self._continued = np.where((continued == 0) | (names[place] != continued), -1, place)
        self._until = np.zeros((len(names), tiers))
        self._ttl_s = ttl_s

    def held(self, row: int, now: float) -> int:
        """Return the place of the best tier that the request's conversation has reached, or -1."""
        name = self._begun[row]
        return max(np.flatnonzero(self._until[name] > now), default=-1) if name >= 0 else -1

    def answered(self, row: int, tier: int, now: float) -> None:
        """Note what it has reached with the answer."""
        name = self._continued[row]
        if name >= 0 and self._ttl_s:
            self._until[name, tier] = now + self._ttl_s
