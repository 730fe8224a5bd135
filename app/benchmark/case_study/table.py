"""The case's table beside ours, and the replay's prediction beside what came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

TABLE_WIDTH = 124  # columns
_NOTE = (
    "Every model is a script: its latencies, prices and faults are set, and so are the lengths of its answers. What "
    "Tierwise decides, and what it takes, is measured."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the case's table; `reached` is None where the case has no aim."""

    what: str
    case: str
    before: str
    after: str
    change: str
    reached: bool | None = None


def rows(found: Mapping[str, Any]) -> list[Row]:
    """Return the case's table."""
    before, after, cache, tokens = found["before"], found["after"], found["cache"], found["tokens"]
    low, high = cache["false_hit_interval"]
    month = 62_400 * (1 + found["cost_change"])
    return [
        Row(
            "Cost of the requests", "", f"${before['usd']:,.2f}", f"${after['usd']:,.2f}", _signed(found["cost_change"])
        ),
        Row(
            "Cost, of the case's bill",
            "$62,400 to $4,850 a month, -92 %",
            "$62,400",
            f"${month:,.0f}",
            _signed(found["cost_change"]),
            found["cost_change"] <= -0.92,
        ),
        Row(
            "Average latency",
            "2.4 s to 0.8 s",
            f"{before['mean_s']:.2f} s",
            f"{after['mean_s']:.2f} s",
            f"{found['latency_ratio']:.1f} times faster",
            found["latency_ratio"] >= 3,
        ),
        Row("Latency, p95", "", f"{before['p95_s']:.2f} s", f"{after['p95_s']:.2f} s", ""),
        Row("From the cache", "35 %", "", _percent(cache["hit_rate"]), "", cache["hit_rate"] >= 0.35),
        Row(
            "Wrong hits, of the hits",
            "under 1 % (ours)",
            "",
            f"{_percent(cache['false_hit_rate'], 2)} ({cache['wrong_hits']} of {cache['hits']})",
            f"{100 * low:.2f} to {100 * high:.2f} %",
            cache["false_hit_rate"] < 0.01,
        ),
        Row("Tokens of answers, by profiles", "-40 %", "", "", _signed(-tokens["answers"]), tokens["answers"] >= 0.4),
        Row("the same, prompts included", "", "", "", _signed(-tokens["prompts_too"])),
        Row("Tokens bought in all", "", _tokens(before), _tokens(after), _signed(-tokens["bought"])),
        Row(
            "Reliability",
            "99.1 % to 99.9 %",
            _percent(before["reliability"], 2),
            _percent(after["reliability"], 2),
            f"{100 * (after['reliability'] - before['reliability']):+.2f} points",
            after["reliability"] >= 0.999,
        ),
    ]


def table(found: Mapping[str, Any]) -> Group:
    """Show the figures."""
    case = Table(
        box=box.MARKDOWN, title=f"The case, and {found['before']['requests']:,} requests of ours", caption=_NOTE
    )
    for name in ("", "the case", "before", "after", "change", "aim reached"):
        case.add_column(name, overflow="fold")
    for row in rows(found):
        reached = {True: "yes", False: "no", None: ""}[row.reached]
        case.add_row(row.what, row.case, row.before, row.after, row.change, reached)
    return Group(case, _shares(found), _agreement(found))


def _shares(found: Mapping[str, Any]) -> Table:
    shown = Table(box=box.MARKDOWN, title="Who answered, of all requests")
    shares = {"cache": found["cache"]["hit_rate"], **found["cache"]["tiers"]}
    for name in shares:
        shown.add_column(name)
    shown.add_row(*(_percent(share) for share in shares.values()))
    return shown


def _agreement(found: Mapping[str, Any]) -> Table:
    shown = Table(box=box.MARKDOWN, title="What `tierwise replay` said of the log of before, and what came")
    for name in ("", "predicted", "95 % interval", "measured", "within"):
        shown.add_column(name)
    for name, pair in found["agreement"].items():
        ends = f"{pair['low']:.4f} to {pair['high']:.4f}"
        within = "yes" if pair["within"] else "no"
        shown.add_row(name, f"{pair['predicted']:.4f}", ends, f"{pair['measured']:.4f}", within)
    return shown


def _tokens(run: Mapping[str, Any]) -> str:
    return f"{run['prompt_tokens'] + run['answer_tokens']:,}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %"
