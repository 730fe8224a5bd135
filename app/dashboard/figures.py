"""What the dashboard says of sums and states: pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from app.cache.bound import Bound
from app.dashboard.periods import Step, Sums
from app.ledger.calls import Called
from app.ledger.record import Record
from app.ledger.store import Total
from app.routing import TierConfig

_FIELDS = (
    *("time", "kind", "request_id", "tenant", "endpoint", "tier", "model", "cost_usd", "without_usd", "latency_s"),
    *("cache", "reason", "similarity", "score", "route", "cascade", "schema", "attempts", "status", "error"),
)


def series(steps: Sequence[Step], sums: Mapping[str, Sums]) -> dict[str, Any]:
    """Return a column for each line of the charts, a value for each step."""
    totals = [sums[step.name].total for step in steps]
    bills = [total.bill() for total in totals]
    tiers = sorted({tier for total in totals for tier in total.of["tier"]})
    return {
        "time": [step.start for step in steps],
        "step_s": steps[0].end - steps[0].start,
        "requests": [bill["requests"] for bill in bills],
        "cost_usd": [bill["cost_usd"] + bill["audit_cost_usd"] for bill in bills],
        "without_usd": [bill["without_usd"] for bill in bills],
        "errors": [total.of["error"].total() for total in totals],
        "tiers": {tier: [total.of["tier"][tier] for total in totals] for tier in tiers},
    }


def so_far(total: Total | None) -> dict[str, Any] | None:
    """Return what was saved since the first request."""
    if total is None:
        return None
    return {**total._asdict(), "saved_usd": total.without_usd - total.cost_usd}


def false_hits(bound: Bound, limit: float, confidence: float) -> dict[str, Any]:
    """Return the estimated share of wrong ones among the hits by meaning, over all scopes, with its interval."""
    low, high = bound.hits.interval(confidence)
    checked, wrong = bound.hits.checked, bound.hits.wrong
    return {
        "estimate": wrong / checked if checked else None,
        "lower": low,
        "upper": high,
        "checked": checked,
        "wrong": wrong,
        "limit": limit,
        "confidence": confidence,
        "steps": bound.steps,
    }


def targets(
    tiers: Sequence[TierConfig],
    called: Mapping[Called, int],
    breakers: Mapping[str, Mapping[str, float]],
    now: float,
) -> list[dict[str, Any]]:
    """Return a row for each model of each tier: what became of its calls, and how its breaker stands.

    Args:
        breakers: By tier, as `shared_breakers` in `app/tier/shared.py` returns them.
    """
    results: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for group, count in called.items():
        results[group.tier, group.target][group.result] += count
    rows: list[dict[str, Any]] = []
    for tier in tiers:
        own = [tier.llm.target] if tier.llm else []
        if not tier.targets:  # nobody counts its calls: it has no policy
            rows += [{"tier": tier.name, "target": name, "state": "local", "calls": None, "errors": {}} for name in own]
            continue
        able = dict.fromkeys(own, True) | {target.label: target.available() for target in tier.targets}
        for label, available in able.items():
            found = results[tier.name, label]
            ends = breakers[tier.name].get(label)
            state = "closed" if ends is None else "open" if ends > now else "half-open"
            failed = {result: count for result, count in sorted(found.items()) if result != "ok"}
            rows.append(
                {
                    "tier": tier.name,
                    "target": label,
                    "state": state if available else "no key",
                    "ends_in_s": max(0.0, ends - now) if ends is not None else None,
                    "calls": found.total(),
                    "errors": failed,
                }
            )
    return rows


def decisions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the latest records without what was said."""
    return [{name: getattr(record, name) for name in _FIELDS} for record in records]
