"""A plan as a table, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.planning.model import Plan, monthly_usd


def table(plans: Sequence[tuple[Plan, Mapping[str, float]]]) -> str:
    """Write a column for each load, in Markdown: the plan, and the milliseconds of its simulation."""
    rows: dict[str, list[str]] = {"requests a second": [f"{found.requests_s:,.0f}" for found, _ in plans]}
    for name in plans[0][0].replicas:
        rows[f"replicas of {'all API tiers' if name == 'Tier' else name}"] = [f"{p.replicas[name]:,}" for p, _ in plans]
    for name in ("nodes", "shards", "gpus", "clusters"):
        heading = {"shards": "shards of Redis", "gpus": "GPUs", "clusters": "Ray clusters"}.get(name, name)
        rows[heading] = [f"{getattr(found, name):,}" for found, _ in plans]
    for name in ("cpu", "redis", "gpu", "api"):
        rows[f"$ for a million requests: {name}"] = [f"{found.usd_per_1m[name]:,.2f}" for found, _ in plans]
    rows["$ a month"] = [f"{monthly_usd(found):,.0f}" for found, _ in plans]
    for tier in plans[0][0].limits:
        rows[f"{tier}: requests, tokens a minute"] = [
            f"{found.limits[tier]['requests']:,.0f}, {found.limits[tier]['tokens']:,.0f}" for found, _ in plans
        ]
    rows["added, p50 / p95 / p99"] = [
        " / ".join(f"{waits[f'p{p}_ms']:.1f}" for p in (50, 95, 99)) + " ms" for _, waits in plans
    ]
    for place, heading in enumerate(("runs out first", "and then")):
        names = [found.bottlenecks[place] for found, _ in plans]
        needed = [found.nearness[name] for (found, _), name in zip(plans, names, strict=True)]
        rows[heading] = [f"{name} ({share:.1%})" for name, share in zip(names, needed, strict=True)]
    heading, *rest = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join([heading, "|---" * (len(plans) + 1) + "|", *rest])


def checked(checks: Sequence[Mapping[str, Any]]) -> str:
    """Write what a measured machine did at each load beside what the model says of it, in Markdown."""
    lines = [
        "| offered, requests/s | cores in use, model | measured | p50, model | measured | p95, model | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in checks:
        cells = [f"{one['offered_rps']:.0f}", f"{one['model']['cores_used']:.2f}", f"{one['cores_used']:.2f}"]
        for name in ("p50_ms", "p95_ms"):
            cells += [f"{one['model'][name]:.0f} ms", f"{one[name]:.0f} ms"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
