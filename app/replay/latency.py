"""How long answers take: as logged, else by a model of the tier, learnt from the log where that is possible."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from app.assumptions import LatencyModel
from app.config import GatewayConfig
from app.replay.run import Replayed
from app.replay.tokens import Tokens
from app.routing import TierConfig

_LEARNT_FROM = 30  # answers of a model that are enough to learn its latency from
# Where neither the log nor the configuration says how fast a tier is: a small model nearby, and APIs.
_LOCAL = LatencyModel(first_token_s=0.1, output_tokens_per_s=80)
_API = LatencyModel(first_token_s=0.5, output_tokens_per_s=60)
Floats = NDArray[np.float64]


def seconds_of(model: LatencyModel, tokens: Tokens) -> Floats:
    """Return how long the answers take, `(rows,)`."""
    return np.asarray(tokens.calls * model.first_token_s + tokens.completion / model.output_tokens_per_s, np.float64)


def latencies(
    replayed: Replayed, completion: Floats, config: GatewayConfig
) -> tuple[Floats, dict[str, tuple[LatencyModel, str]], int]:
    """Fill in latencies; return them, each tier's model with its source in words, and how many were filled in."""
    logged, ok = replayed.columns["latency_s"], np.asarray(replayed.columns["ok"])
    usable = ~np.isnan(logged) & ok & ~np.isnan(replayed.columns["completion_tokens"]) & ~replayed.columns["free"]
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
