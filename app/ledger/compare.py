"""A canary beside the stable side: what each costs and does, and which differences are beyond chance. Pure functions.

Each figure has an interval: Wilson's for a share, the normal one for a mean and for a ratio of means, and that of the
order statistics for a quantile. The difference of two has the one that follows from theirs (MOVER, Zou and Donner 2008;
for shares Newcombe's). They take requests as independent: where a few callers make most of them, they are too narrow.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from app.ledger.record import NANO
from app.ledger.rollup import quantile
from app.ledger.summary import Counted

ARMS = ("stable", "canary")
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_GONE = "client_gone"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and the interval that it lies in."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """Return the value and its interval, for JSON."""
        return [round(number, 9) for number in (self.value, self.low, self.high)]


def compared(counted: Iterable[Counted]) -> dict[str, Any]:
    """Compare the sides: for each its requests and its bill; for each figure both, the difference and the verdict."""
    sums = {arm: _Sums() for arm in ARMS}
    for _, group, counters in counted:
        if group.arm in sums:
            sums[group.arm].add(group.kind, group.tier, group.decision, group.error, counters)
    figures = {arm: one.figures() for arm, one in sums.items()}
    names = dict.fromkeys([*figures["stable"], *figures["canary"]])
    return {
        "confidence": CONFIDENCE,
        "arms": {arm: one.bill() for arm, one in sums.items()},
        "figures": {name: _row(*(figures[arm].get(name) for arm in ARMS)) for name in names},
    }


def difference(stable: Estimate, canary: Estimate) -> Estimate:
    """Return how much the canary is above the stable side."""
    value = canary.value - stable.value
    low = value - math.hypot(canary.value - canary.low, stable.high - stable.value)
    high = value + math.hypot(canary.high - canary.value, stable.value - stable.low)
    return Estimate(value, low, high)


def share(count: int, total: int) -> Estimate:
    """Estimate a share (Wilson)."""
    value, square = count / total, _Z**2 / total
    centre = (value + square / 2) / (1 + square)
    reach = math.sqrt(value * (1 - value) * square + square**2 / 4) / (1 + square)
    return Estimate(value, min(value, centre - reach), max(value, centre + reach))


def mean(total: float, squares: float, n: int) -> Estimate:
    """Estimate a mean from a sum and a sum of squares."""
    value = total / n
    variance = max(0.0, squares - n * value**2) / max(1, n - 1)
    reach = _Z * math.sqrt(variance / n)
    return Estimate(value, value - reach, value + reach)


def ratio(over: float, under: float, squares: tuple[float, float, float], n: int) -> Estimate:
    """Estimate the ratio of two sums over the same requests.

    Args:
        squares: The sums of the squares of the one, of the other, and of their products.
    """
    value = over / under
    residual = squares[0] - 2 * value * squares[2] + value**2 * squares[1]
    reach = _Z * math.sqrt(max(0.0, residual) * n / max(1, n - 1)) / under
    return Estimate(value, value - reach, value + reach)


def latency(histogram: Mapping[int, int], at: float) -> Estimate:
    """Estimate a quantile in milliseconds."""
    reach = _Z * math.sqrt(at * (1 - at) / sum(histogram.values()))
    ends = (at, max(0.0, at - reach), min(1.0, at + reach))
    return Estimate(*(1e3 * quantile(histogram, end) for end in ends))


def _row(stable: Estimate | None, canary: Estimate | None) -> dict[str, Any]:
    """Put a figure of both beside one another; None where a side has no such requests."""
    row: dict[str, Any] = {
        "stable": stable and stable.as_list(),
        "canary": canary and canary.as_list(),
        "difference": None,
        "beyond_chance": None,
    }
    if stable is not None and canary is not None:
        found = difference(stable, canary)
        row |= {"difference": found.as_list(), "beyond_chance": not found.low <= 0 <= found.high}
    return row


def table(comparison: Mapping[str, Any]) -> str:
    """Write a comparison as lines of text, the sides in columns."""
    arms = [comparison["arms"][arm] for arm in ARMS]
    rows = [("", *ARMS, "difference", "beyond chance")]
    rows += [(name, *(_said(name, arm[name]) for arm in arms), "", "") for name in arms[0]]
    for name, row in comparison["figures"].items():
        cells = [_interval(name, row[column]) for column in (*ARMS, "difference")]
        rows.append((name, *cells, {None: "", True: "yes", False: "no"}[row["beyond_chance"]]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _interval(name: str, estimate: Sequence[float] | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (_said(name, number) for number in estimate)
    return f"{value} ({low} to {high})"


def _said(name: str, number: float) -> str:
    if name == "requests":
        return f"{number:,}"
    if "_usd" in name:
        return f"{number:.6f}"
    return f"{number:.1f}" if name.endswith("_ms") else f"{100 * number:.2f} %"


class _Sums:
    """The counters of one side, added up."""

    def __init__(self) -> None:
        self._counters: Counter[str] = Counter()
        self._audits: Counter[str] = Counter()
        self._of: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, kind: str, tier: str, decision: str, error: str, counters: Mapping[str, int]) -> None:
        """Add the counters of a group."""
        if kind == "audit":
            self._audits.update(counters)
            return
        self._counters.update(counters)
        n = counters.get("n", 0)
        self._of["tier"][tier] += n
        self._of["decision"][decision] += n
        self._of["error"][error] += n

    def bill(self) -> dict[str, Any]:
        """Say how many requests there were, and what they and the checks of them cost in all."""
        cost, checks, without = self._counters["cost"], self._audits["cost"], self._counters["without"]
        dollars = {"cost_usd": cost, "checks_usd": checks, "without_usd": without, "saved_usd": without - cost - checks}
        return {"requests": self._counters["n"], **{name: nanos / NANO for name, nanos in dollars.items()}}

    def figures(self) -> dict[str, Estimate]:
        """Estimate all that there are requests for."""
        n, counters = self._counters["n"], self._counters
        if not n:
            return {}
        cost, without = (counters[name] / NANO for name in ("cost", "without"))
        squares = tuple(counters[name] / 1e12 for name in ("cost:cost", "without:without", "cost:without"))
        found = {
            "cost_usd_per_request": mean(cost, squares[0], n),
            "without_usd_per_request": mean(without, squares[1], n),
        }
        if without:
            spent = ratio(cost, without, (squares[0], squares[1], squares[2]), n)
            found["saved_share"] = Estimate(1 - spent.value, 1 - spent.high, 1 - spent.low)
        decided = n - self._of["decision"][""]
        if decided:
            found["hit_rate"] = share(self._of["decision"]["hit"], decided)
        found |= {f"tier {tier}": share(count, n) for tier, count in sorted(self._of["tier"].items())}
        failed = n - self._of["error"][""] - self._of["error"][_GONE]
        found["error_rate"] = share(failed, n)
        histogram = {int(name.rpartition(":")[2]): c for name, c in counters.items() if name.startswith("b:total:")}
        found |= {f"p{round(100 * at)}_ms": latency(histogram, at) for at in (0.5, 0.95)}
        return found
