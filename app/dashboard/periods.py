"""The stretches of time that the dashboard shows, and the sums of each step in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from app.errors import InvalidRequestError
from app.ledger.record import usd
from app.ledger.rollup import SLOT_S, day_of, hour_of, slot_of
from app.ledger.summary import Counted, Sum

_TENANT_COUNTERS = ("n", "cost", "without")


class Step(NamedTuple):
    """A step of a range: the name of its sums, and Unix times."""

    name: str
    start: int
    end: int


class _Range(NamedTuple):
    steps: int
    step_s: int
    named: Callable[[float], str]


_RANGES = {
    "1h": _Range(12, SLOT_S, slot_of),
    "24h": _Range(24, 3600, hour_of),
    "7d": _Range(7 * 24, 3600, hour_of),
    "30d": _Range(30, 24 * 3600, day_of),
}
DEFAULT_RANGE = "24h"


def steps_of(name: str, now: float) -> list[Step]:
    """Return the steps of a range, the present one last.

    Raises:
        InvalidRequestError: There is no such range.
    """
    if name not in _RANGES:
        raise InvalidRequestError(f"`range` must be one of: {', '.join(_RANGES)}.", "range")
    steps, step_s, named = _RANGES[name]
    last = int(now // step_s)
    return [Step(named(n * step_s), n * step_s, (n + 1) * step_s) for n in range(last - steps + 1, last + 1)]


@dataclass(slots=True)
class Sums:
    """Counters of a step, of all groups together and of each tenant."""

    total: Sum = field(default_factory=Sum)
    tenants: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def join(self, other: Sums) -> None:
        """Add another step."""
        self.total.join(other.total)
        for tenant, counts in other.tenants.items():
            self.tenants[tenant].update(counts)

    def bills(self, count: int) -> list[dict[str, object]]:
        """Return what the tenants that cost most cost."""
        top = sorted(self.tenants, key=lambda name: -self.tenants[name]["cost"])[:count]
        return [
            {
                "tenant": name,
                "requests": counts["n"],
                "hit_rate": counts["hits"] / counts["n"] if counts["n"] else None,
                "cost_usd": usd(counts["cost"]),
                "saved_usd": usd(counts["without"] - counts["cost"]),
            }
            for name in top
            for counts in [self.tenants[name]]
        ]


def summed(counted: Iterable[Counted]) -> Mapping[str, Sums]:
    """Sum up counters by the names of their steps."""
    found: dict[str, Sums] = defaultdict(Sums)
    for name, group, counters in counted:
        sums = found[name]
        sums.total.add(group, counters)
        tenant = sums.tenants[group.tenant]
        if group.kind == "audit":
            tenant["cost"] += counters.get("cost", 0)
            continue
        tenant.update({counter: counters.get(counter, 0) for counter in _TENANT_COUNTERS})
        if group.decision == "hit":
            tenant["hits"] += counters.get("n", 0)
    return found
