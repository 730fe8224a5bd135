"""What the counters of many hours and groups say, in the words of `GET /v1/ledger/summary`: pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast, get_args

from app.errors import InvalidRequestError
from app.ledger.record import usd
from app.ledger.rollup import Group, quantile

By = Literal["hour", "day", "tenant", "tier", "model", "decision", "arm"]
Counted = tuple[str, Group, Mapping[str, int]]  # an hour or a day, a group, and its counters in it
_TOP = 10


def dimension(by: str | None) -> By | None:
    """Read what rows are to be made by.

    Raises:
        InvalidRequestError: There is no such thing.
    """
    if by not in (None, *get_args(By)):
        raise InvalidRequestError(f"`by` must be one of: {', '.join(get_args(By))}.", "by")
    return cast(By | None, by)


def summary(counted: Iterable[Counted], by: By | None) -> dict[str, Any]:
    """Sum up: all together, the top tenants by cost, and a row for each value of `by`, in its order."""
    total, rows = Sum(), defaultdict[str, Sum](Sum)
    tenants = defaultdict[str, Sum](Sum)
    for period, group, counters in counted:
        total.add(group, counters)
        tenants[group.tenant].add(group, counters)
        if by is not None:
            rows[_key(by, period, group)].add(group, counters)
    top = sorted(tenants, key=lambda name: -tenants[name].nanos)[:_TOP]
    return {
        "total": total.figures(),
        "top_tenants": [{"tenant": name, **tenants[name].bill()} for name in top],
        "data": [{by: key, **rows[key].figures()} for key in sorted(rows)],
    }


def _key(by: By, period: str, group: Group) -> str:
    if by == "hour":
        return f"{period}:00Z"
    if by == "day":
        return period.partition("T")[0]
    return str(getattr(group, by)) or "none"


class Sum:
    """Counters of groups, added up.

    Attributes:
        of: Requests by decision, tier and error.
    """

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._audits: Counter[str] = Counter()
        self.of: dict[Literal["decision", "tier", "error"], Counter[str]] = {
            "decision": Counter(),
            "tier": Counter(),
            "error": Counter(),
        }

    @property
    def nanos(self) -> int:
        """Billionths of a dollar on the bill."""
        return self._requests["cost"] + self._audits["cost"]

    def add(self, group: Group, counters: Mapping[str, int]) -> None:
        """Add a group's counters."""
        if group.kind == "audit":
            self._audits.update(counters)
            return
        self._requests.update(counters)
        for name, counts in self.of.items():
            if value := getattr(group, name):
                counts[value] += counters.get("n", 0)

    def join(self, other: Sum) -> None:
        """Add another sum."""
        self._requests.update(other._requests)
        self._audits.update(other._audits)
        for name, counts in self.of.items():
            counts.update(other.of[name])

    def bill(self) -> dict[str, Any]:
        """Say how many requests there were and what they cost, against the bill without us."""
        saved = self._requests["without"] - self.nanos
        return {
            "requests": self._requests["n"],
            "cost_usd": usd(self._requests["cost"]),
            "audits": self._audits["n"],
            "audit_cost_usd": usd(self._audits["cost"]),
            "without_usd": usd(self._requests["without"]),
            "saved_usd": usd(saved),
        }

    def figures(self) -> dict[str, Any]:
        """Say all that is known."""
        decisions = self.of["decision"]
        decided = sum(decisions.values())
        return self.bill() | {
            "hit_rate": decisions["hit"] / decided if decided else None,
            "decisions": dict(decisions),
            "reasons": self._named("c:"),
            "routes": self._named("r:"),
            "tiers": dict(self.of["tier"]),
            "errors": dict(self.of["error"]),
            "prompt_tokens": self._requests["prompt"],
            "cached_prompt_tokens": self._requests["cached"],
            "completion_tokens": self._requests["completion"],
            "latency": self._latency(),
        }

    def _named(self, prefix: str) -> dict[str, int]:
        return {name.removeprefix(prefix): n for name, n in self._requests.items() if name.startswith(prefix)}

    def _latency(self) -> dict[str, dict[str, float]]:
        histograms: dict[str, dict[int, int]] = defaultdict(dict)
        for name, count in self._named("b:").items():
            stage, _, index = name.partition(":")
            histograms[stage][int(index)] = count
        found = {}
        for stage, histogram in histograms.items():
            count = sum(histogram.values())
            found[stage] = {
                "count": count,
                "mean_ms": round(self._requests[f"s:{stage}"] / count / 1e3, 3),
                "p50_ms": round(1e3 * quantile(histogram, 0.5), 3),
                "p95_ms": round(1e3 * quantile(histogram, 0.95), 3),
            }
        return found
