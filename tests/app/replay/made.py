"""Replays made up of a few requests, for tests of what is reckoned from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.config import GatewayConfig
from app.replay.costs import costs_of
from app.replay.run import Labels, Replayed
from app.replay.simulate import Simulation, simulate
from app.replay.table import BadLines
from tests.fakes import CONFIG

NOON = 1_770_000_000


def replayed(count: int = 4, **fields: Any) -> Replayed:
    """Make a replay of misses to `large`, of 100 and 50 tokens, in 1 s each, an hour apart; `fields` replace any."""
    ones = np.ones(count)
    columns: dict[str, Any] = {
        "time": NOON + 3600 * np.arange(count),
        "prompt_tokens": 100 * ones,
        "completion_tokens": 50 * ones,
        "cached_tokens": 0 * ones,
        "cache_write_tokens": 0 * ones,
        "batch": np.zeros(count, bool),
        "free": np.zeros(count, bool),
        "needed_tokens": 0 * ones,
        "limit": 0 * ones,
        "raised_limit": 0 * ones,
        "added_tokens": 0 * ones,
        "begun": np.zeros(count, np.uint64),
        "continued": np.zeros(count, np.uint64),
        "anonymous": np.zeros(count, bool),
        "ok": np.ones(count, bool),
        "latency_s": ones,
        "counted_tokens": 100 * ones,
        "answer_tokens": 50 * ones,
        "text_id": np.arange(count, dtype=np.uint64),
    }
    columns = {name: np.asarray(fields.pop(name, column)) for name, column in columns.items()}
    models = fields.pop("models", ["large"])
    reasons = fields.pop("reasons", ["miss no candidate"] * count)
    given: dict[str, Any] = {
        "rows": fields.pop("rows", None),
        "files": ["log.jsonl"],
        "bad": BadLines({}, []),
        "columns": columns,
        "untimed": 0,
        "left_out": 0,
        "tenant": labels(fields.pop("tenants", ["acme"] * count)),
        "abilities": labels(fields.pop("abilities", [""] * count)),
        "profile": labels(fields.pop("profiles", [""] * count)),
        "route": Labels(np.zeros(count, np.int32), [""]),
        "model": Labels(np.arange(count, dtype=np.int32) % len(models), models),
        "reason": labels(reasons),
        "served": np.full(count, -1),
        "near": np.full(count, -1),
        "similarity": np.full(count, np.nan, np.float32),
        "evidence": np.full(count, np.nan, np.float32),
        "score": np.full(count, 0.5, np.float32),
        "compared": np.zeros((0, 3), np.int64),
        "seconds": {"read": 1.0},
        "cores": 1,
    }
    return Replayed(**{**given, **{name: np.asarray(value) for name, value in fields.items()}})


def labels(names: list[str]) -> Labels:
    distinct = list(dict.fromkeys(names))
    return Labels(np.array([distinct.index(name) for name in names], np.int32), distinct)


def simulation(of: Replayed, config: GatewayConfig = CONFIG) -> Simulation:
    return simulate(of, costs_of(of, config), config)


def changed(**fields: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({**CONFIG.model_dump(exclude_defaults=True), **fields})
