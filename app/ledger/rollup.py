"""Sums of records by five minutes and group, as counters that add up to hours and days: pure functions.

The counters of a group in such a time, all of them whole numbers, so that sums are exact:

| counter        | counts                                                        |
|----------------|---------------------------------------------------------------|
| `n`            | records                                                       |
| `prompt`, `cached`, `completion` | tokens                                      |
| `cost`, `without` | billionths of a dollar                                     |
| `c:REASON`, `r:ROUTE` | records that the cache decided, or that were routed, so|
| `s:STAGE`      | microseconds in a stage; `total` is all of them                |
| `b:STAGE:I`    | records whose stage fell into bucket I of its histogram        |
| `cost:cost`, `without:without`, `cost:without` | while a canary runs: sums of the products, in square millionths |
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from app.ledger.record import Record, nano

SLOT_S = 300
SLOTS_KEPT_S = 2 * 3600
_FIRST_S = 1e-4  # the end of the first bucket;
_GROWTH: float = math.sqrt(2)  # each ends so many times later than the one before
_LAST = 48  # 28 minutes and more


class Group(NamedTuple):
    """Records that are counted together."""

    kind: str
    tenant: str
    tier: str
    model: str
    decision: str
    error: str
    arm: str = ""


def rolled_up(records: Iterable[Record]) -> dict[tuple[str, Group], Counter[str]]:
    """Count records by five minutes and group."""
    found: dict[tuple[str, Group], Counter[str]] = defaultdict(Counter)
    for record in records:
        group = Group(record.kind, record.tenant, record.tier, record.model, record.cache, record.error, record.arm)
        _count(found[slot_of(record.time), group], record)
    return found


def _count(counters: Counter[str], record: Record) -> None:
    counters["n"] += 1
    counters["prompt"] += record.prompt_tokens
    counters["cached"] += record.cached_tokens
    counters["completion"] += record.completion_tokens
    counters["cost"] += nano(record.cost_usd)
    counters["without"] += nano(record.without_usd)
    if record.reason:
        counters[f"c:{record.reason}"] += 1
    if record.route:
        counters[f"r:{record.route}"] += 1
    if record.arm:
        cost, without = round(1e6 * record.cost_usd), round(1e6 * record.without_usd)
        counters["cost:cost"] += cost * cost
        counters["without:without"] += without * without
        counters["cost:without"] += cost * without
    if record.kind == "request":
        for stage, seconds in (("total", record.latency_s), *record.stages.items()):
            counters[f"s:{stage}"] += round(seconds * 1e6)
            counters[f"b:{stage}:{bucket(seconds)}"] += 1


def slot_of(time: float) -> str:
    """Name the five minutes (UTC) of a Unix time."""
    return _slot(int(time // SLOT_S))


def hour_of(time: float) -> str:
    """Name the hour (UTC) of a Unix time."""
    return slot_of(time)[:13]


def day_of(time: float) -> str:
    """Name the day (UTC) of a Unix time."""
    return slot_of(time)[:10]


def periods_of(slot: str) -> tuple[str, str, str]:
    """Name the five minutes, their hour and their day."""
    return slot, slot[:13], slot[:10]


@lru_cache(maxsize=64)
def _slot(number: int) -> str:
    return f"{datetime.fromtimestamp(SLOT_S * number, UTC):%Y-%m-%dT%H:%M}"


def bucket(seconds: float) -> int:
    """Return the bucket that a latency falls into."""
    if seconds <= _FIRST_S:
        return 0
    return min(math.ceil(math.log(seconds / _FIRST_S, _GROWTH)), _LAST)


def quantile(histogram: Mapping[int, int], share: float) -> float:
    """Return the latency in seconds that `share` of a non-empty histogram is below, by interpolation in its bucket."""
    wanted = share * sum(histogram.values())
    seen = 0
    for index in sorted(histogram):
        if seen + histogram[index] >= wanted:
            inside = (wanted - seen) / histogram[index]
            return _FIRST_S * math.pow(_GROWTH, index - 1 + inside)
        seen += histogram[index]
    return _FIRST_S * math.pow(_GROWTH, max(histogram))
