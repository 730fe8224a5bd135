"""The figures of `tierwise bench router` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

TABLE_WIDTH = 124  # columns
_MISSING = "–"


def table(figures: Mapping[str, Any]) -> Table:
    """Draw a block of rows for each file."""
    latency = figures["latency"]
    drawn = Table(
        box=box.MARKDOWN,
        title="AUC: small suffices, large needed. Right: tier. To small: of the hard prompts. CPT: share of strong "
        "calls. Saved: of the bill, at 95 % of the top tier's quality.",
        caption=f"A score of {latency['tokens']} tokens on one thread: p50 {latency['p50_ms']:.1f} ms, "
        f"p95 {latency['p95_ms']:.1f} ms.",
    )
    for heading in ("file, router", "AUC small", "AUC large", "right", "to small", "APGR (95 %)"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("CPT50", "CPT80", "saved"):
        drawn.add_column(heading, no_wrap=True)
    for file, found in figures["files"].items():
        drawn.add_row(f"{file}, {found['rows']}", *[""] * 8, style="bold")
        for name, router in found["routers"].items():
            drawn.add_row(name, *_cells(router, found.get("hard", 0)))
    return drawn


def _cells(router: Mapping[str, Any], hard: int) -> list[str]:
    def number(name: str) -> str:
        value = router.get(name)
        return _MISSING if value is None else f"{value:.3f}"

    def share(name: str) -> str:
        value = router.get(name)
        return _MISSING if value is None else f"{100 * value:.1f} %"

    low, high = router.get("apgr_95", (0.0, 0.0))
    return [
        number("auc_small_suffices"),
        number("auc_large_needed"),
        share("right_tier"),
        f"{router['hard_to_small']:.0f} of {hard}" if "hard_to_small" in router else _MISSING,
        f"{router['apgr']:.3f} ({low:.2f} to {high:.2f})" if "apgr" in router else _MISSING,
        share("cpt50"),
        share("cpt80"),
        share("saved"),
    ]
