"""What each logged request cost and took, and what it would have by each tier: prices, tokens, latency models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from app.assumptions import LatencyModel
from app.config import GatewayConfig
from app.pricing import ListedPrice, Tariff, cost_usd, listed_price
from app.replay.run import Replayed
from app.routing import TierConfig, plan
from app.schema import Usage

CHARS_A_TOKEN = 4
_LEARNT_FROM = 30  # answers of a model that are enough to learn its latency from
# Where neither the log nor the configuration says how fast a tier is: a small model nearby, and APIs.
_LOCAL = LatencyModel(first_token_s=0.1, output_tokens_per_s=80)
_API = LatencyModel(first_token_s=0.5, output_tokens_per_s=60)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Costs:
    """Requests in dollars and seconds, `(rows,)` or `(rows, tiers)`.

    Attributes:
        before_usd: As logged.
        tier_usd: By the first model of each tier.
        before_s: As logged, or by the latency model of the logged model.
        tier_s: By the latency model of each tier.
        tier: The tier that the score and the request's needs lead to.
        estimated: For how many rows each missing field was filled in.
        latency: Which latency model each tier has, in words.
        unpriced: Models that no price is known for, counted as free.
    """

    prompt_tokens: Floats
    completion_tokens: Floats
    before_usd: Floats
    tier_usd: Floats
    before_s: Floats
    tier_s: Floats
    tier: NDArray[np.int64]
    estimated: Mapping[str, int]
    latency: Mapping[str, str]
    unpriced: Sequence[str]


def costs_of(replayed: Replayed, config: GatewayConfig) -> Costs:
    """Price and time every request, as it was and by each tier."""
    numbers = replayed.columns
    prompt, completion, estimated = _tokens(replayed, config)
    logged = [_logged(name, config) for name in replayed.model.names]
    served = [config.prices()[next(iter(tier.models()))] for tier in config.tiers]
    days, day = np.unique((numbers["time"] // 86400).astype(np.int64), return_inverse=True)
    dates = [date(1970, 1, 1) + timedelta(int(number)) for number in days]
    counts = prompt, completion, np.nan_to_num(numbers["cached_tokens"]), numbers["batch"]

    def billed(tariffs: Sequence[Tariff], of: NDArray[np.int32]) -> Floats:
        """Price each request by the tariff that `of` names."""
        requests = zip(of, day, *counts, strict=True)
        costs = (
            cost_usd(Usage(int(asked), int(said), int(cached), bool(batch)), tariffs[i], dates[on])
            for i, on, asked, said, cached, batch in requests
        )
        return np.fromiter(costs, np.float64, len(of))

    before_usd = billed(logged, replayed.model.index)
    tier_usd = np.stack([billed([tariff], np.zeros_like(replayed.model.index)) for tariff in served], axis=1)
    before_s, models, unknown = _latency(replayed, completion, config)
    tier_s = np.stack([model.first_token_s + completion / model.output_tokens_per_s for model, _ in models.values()], 1)
    for place, tier in enumerate(config.tiers):
        same = replayed.model.are(next(iter(tier.models())).__eq__)
        tier_s[same, place] = before_s[same]  # the model that was asked then is asked now
    tariffs = {**dict(zip(replayed.model.names, logged, strict=True)), **config.prices()}
    return Costs(
        prompt,
        completion,
        before_usd,
        tier_usd,
        before_s,
        tier_s,
        tiers_of(replayed.score, np.asarray(numbers["tools"]), config.tiers),
        {**estimated, "latency": unknown},
        {name: words for name, (_, words) in models.items()},
        _unlisted(tariffs),
    )


def tiers_of(scores: NDArray[np.float32], tools: NDArray[np.bool_], tiers: tuple[TierConfig, ...]) -> NDArray[np.int64]:
    """Return the place of the tier that each request goes to, as the gateway plans it, `(rows,)`.

    Every request is taken to be routed, whatever model it named, and every tier to be up.
    """
    able = {tier.name for tier in tiers if "tools" in tier.takes()}
    places = {tier.name: place for place, tier in enumerate(tiers)}

    def place(score: float, needs_tools: bool) -> int:
        planned = [tier for tier in plan(score, tiers) if not needs_tools or tier.name in able]
        return places[planned[0].name] if planned else len(tiers) - 1

    return np.array([place(float(score), bool(needs)) for score, needs in zip(scores, tools, strict=True)], np.int64)


def _logged(model: str, config: GatewayConfig) -> Tariff:
    """Return the price of a logged model; one that is not named is the baseline."""
    return config.price_of(model) if model else config.baseline_price()


def _unlisted(tariffs: Mapping[str, Tariff]) -> list[str]:
    today = datetime.now(UTC).date()
    listed = {name: tariff for name, tariff in tariffs.items() if isinstance(tariff, ListedPrice)}
    return sorted(name for name in listed if listed_price(name, today) is None)


def _tokens(replayed: Replayed, config: GatewayConfig) -> tuple[Floats, Floats, dict[str, int]]:
    """Fill in token counts: by characters, and an answer that is not there by the mean of the others."""
    numbers = replayed.columns
    prompt, completion = numbers["prompt_tokens"].copy(), numbers["completion_tokens"].copy()
    no_prompt, no_completion = np.isnan(prompt), np.isnan(completion)
    prompt[no_prompt] = np.maximum(1, numbers["prompt_chars"][no_prompt] // CHARS_A_TOKEN)
    by_text = no_completion & (numbers["answer_chars"] >= 0)
    completion[by_text] = np.maximum(1, numbers["answer_chars"][by_text] // CHARS_A_TOKEN)
    known = completion[~np.isnan(completion) & np.asarray(numbers["ok"])]
    completion[np.isnan(completion)] = round(known.mean()) if len(known) else config.replay.answer_tokens
    return (
        prompt,
        completion,
        {
            "prompt tokens": int(no_prompt.sum()),
            "completion tokens": int(no_completion.sum()),
            "answer": int((numbers["answer_chars"] < 0).sum()),
        },
    )


def _latency(
    replayed: Replayed, completion: Floats, config: GatewayConfig
) -> tuple[Floats, dict[str, tuple[LatencyModel, str]], int]:
    """Fill in latencies; return them, each tier's model with its source in words, and how many were filled in."""
    logged, ok = replayed.columns["latency_s"], np.asarray(replayed.columns["ok"])
    usable = ~np.isnan(logged) & ok & ~np.isnan(replayed.columns["completion_tokens"])
    whole = _fitted(completion[usable], logged[usable]) or _API
    learnt = {}
    for place, name in enumerate(replayed.model.names):
        of = usable & (replayed.model.index == place)
        if model := _fitted(completion[of], logged[of]):
            learnt[name] = model
    before = logged.copy()
    for place, name in enumerate(replayed.model.names):
        of = np.isnan(logged) & (replayed.model.index == place)
        model = learnt.get(name, whole)
        before[of] = model.first_token_s + completion[of] / model.output_tokens_per_s
    models = {tier.name: _tier_model(tier, learnt, config) for tier in config.tiers}
    return before, models, int(np.isnan(logged).sum())


def _tier_model(
    tier: TierConfig, learnt: Mapping[str, LatencyModel], config: GatewayConfig
) -> tuple[LatencyModel, str]:
    name = next(iter(tier.models()))
    if tier.name in config.replay.latency:
        model, source = config.replay.latency[tier.name], "as configured"
    elif name in learnt:
        model, source = learnt[name], f"learnt from {name} in the log"
    else:
        model, source = _LOCAL if tier.llm else _API, "assumed"
    return model, f"{model.first_token_s:.2f} s and {model.output_tokens_per_s:.0f} tokens a second, {source}"


def _fitted(tokens: Floats, seconds: Floats) -> LatencyModel | None:
    """Fit seconds to tokens by a line that rises and starts above 0; None where there are too few, or all the same."""
    if len(tokens) < _LEARNT_FROM or np.ptp(tokens) == 0:
        return None
    slope, start = np.polyfit(tokens, seconds, 1)
    slope = max(float(slope), 1e-4)
    return LatencyModel(first_token_s=max(float(start), 0.0), output_tokens_per_s=1 / slope)
