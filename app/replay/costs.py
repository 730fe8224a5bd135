"""What each logged request cost and took, and what it would have by each tier: prices, tokens, latency models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from app.config import GatewayConfig
from app.pricing import ListedPrice, Tariff, cost_usd, listed_price
from app.replay.latency import latencies, seconds_of
from app.replay.routes import Routes, routes_of
from app.replay.run import Replayed
from app.replay.tokens import Tokens, logged_tokens, shaped_tokens
from app.schema import Usage

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Costs:
    """Requests in dollars and seconds, `(rows,)` or `(rows, tiers)`.

    Attributes:
        before_usd: As logged; what a cache answered then was free.
        tier_usd: By the first model of each tier, in the shape of the request's profile.
        unshaped_usd: By the tier that it goes to, without that shape, and
        top_usd: by the best one, without it.
        before_s: As logged, or by the latency model of the logged model.
        tier_s: By the latency model of each tier.
        logged: Tokens as logged, and
        shaped: in the shape of the profile.
        routes: Where each goes.
        estimated: For how many rows each missing field was filled in.
        latency: Which latency model each tier has, in words.
        unpriced: Models that no price is known for, counted as free.
    """

    before_usd: Floats
    tier_usd: Floats
    unshaped_usd: Floats
    top_usd: Floats
    before_s: Floats
    tier_s: Floats
    logged: Tokens
    shaped: Tokens
    routes: Routes
    estimated: Mapping[str, int]
    latency: Mapping[str, str]
    unpriced: Sequence[str]

    @property
    def tier(self) -> NDArray[np.int64]:
        """The place of the tier that each goes to."""
        return self.routes.tier


def costs_of(replayed: Replayed, config: GatewayConfig) -> Costs:
    """Price and time every request, as it was and by each tier."""
    keep = replayed.keep
    logged, estimated = logged_tokens(replayed, config)
    shaped = shaped_tokens(logged, replayed, config)
    routes = routes_of(replayed, config)
    own = [_logged(name, config) for name in replayed.model.names]
    served = [config.prices()[next(iter(tier.models()))] for tier in config.tiers]
    bill = _Bill(replayed)
    before_s, models, unknown = latencies(replayed, logged.completion, config)
    anything = np.broadcast_to(np.int32(0), len(routes.tier))
    tier_s = np.empty((len(routes.tier), len(config.tiers)), np.float32)
    tier_usd = np.empty(tier_s.shape)
    for place, tier in enumerate(config.tiers):
        tier_s[:, place] = seconds_of(models[tier.name][0], shaped)
        same = replayed.model.are(next(iter(tier.models())).__eq__) & (logged.completion == shaped.completion)
        same &= ~replayed.columns["free"]  # which that model did not answer
        tier_s[same, place] = before_s[same]  # the model that was asked then is asked now
        tier_usd[:, place] = bill.usd(shaped, served[place : place + 1], anything)
    return Costs(
        keep(np.where(replayed.columns["free"], 0.0, bill.usd(logged, own, replayed.model.index))),
        keep(tier_usd),
        keep(bill.usd(logged, served, routes.tier)),
        keep(bill.usd(logged, served[-1:], anything)),
        keep(before_s),
        keep(tier_s),
        logged,
        shaped,
        routes,
        {**_unnamed(replayed), **estimated, "latency": unknown},
        {name: words for name, (_, words) in models.items()},
        _unlisted({**dict(zip(replayed.model.names, own, strict=True)), **config.prices()}),
    )


class _Bill:
    """Prices requests by the day of each."""

    def __init__(self, replayed: Replayed) -> None:
        numbers = replayed.columns
        days, day = np.unique((numbers["time"] // 86400).astype(np.int32), return_inverse=True)
        self._day = day.astype(np.int32)
        self._dates = [date(1970, 1, 1) + timedelta(int(number)) for number in days]
        names = ("cached_tokens", "cache_write_tokens")
        self._beside = (*(np.nan_to_num(numbers[name]) for name in names), numbers["batch"])

    def usd(self, tokens: Tokens, tariffs: Sequence[Tariff], of: NDArray[np.integer]) -> Floats:
        """Price each request by the tariff that `of` names, `(rows,)`."""
        requests = zip(of, self._day, tokens.prompt, tokens.completion, *self._beside, strict=True)
        costs = (
            cost_usd(Usage(int(asked), int(said), int(read), bool(batch), int(written)), tariffs[i], self._dates[on])
            for i, on, asked, said, read, written, batch in requests
        )
        return np.fromiter(costs, np.float64, len(of))


def _unnamed(replayed: Replayed) -> dict[str, int]:
    """Count the requests that the log says too little of: whose they were, when, and which model was asked."""
    return {
        "user": int(np.asarray(replayed.columns["anonymous"]).sum()),
        "time": replayed.untimed,
        "model": int(replayed.model.are(lambda name: not name).sum()),
    }


def _logged(model: str, config: GatewayConfig) -> Tariff:
    """Return the price of a logged model; one that is not named is the baseline."""
    return config.price_of(model) if model else config.baseline_price()


def _unlisted(tariffs: Mapping[str, Tariff]) -> list[str]:
    today = datetime.now(UTC).date()
    listed = {name: tariff for name, tariff in tariffs.items() if isinstance(tariff, ListedPrice)}
    return sorted(name for name in listed if listed_price(name, today) is None)
