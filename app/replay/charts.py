"""The report's charts: SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

# Colours that stand for the page's; each is no other's prefix.
_INK, _FAINT, _FIRST, _SECOND, _MARK = "#010101", "#020202", "#030303", "#040404", "#050505"
_OF_PAGE = {_INK: "--ink", _FAINT: "--faint", _FIRST: "--first", _SECOND: "--second", _MARK: "--mark"}
_INCHES = (7.2, 2.9)


def charts(shown: Mapping[str, Any], max_scores: list[float]) -> dict[str, str]:
    """Draw every chart of a replay's figures, by name; one without data is left out.

    Args:
        max_scores: The cut points in force.
    """
    drawn: dict[str, Callable[[Any], bool]] = {
        "cost": lambda axes: _cost(axes, shown["by_day"]),
        "similarity": lambda axes: _similarity(axes, shown["similarity"]),
        "curve": lambda axes: _curve(axes, shown),
        "scores": lambda axes: _scores(axes, shown["scores"], max_scores),
    }
    found = {name: _svg(name, draw) for name, draw in drawn.items()}
    return {name: svg for name, svg in found.items() if svg}


def _svg(name: str, draw: Callable[[Any], bool]) -> str:
    """Draw on axes in the page's colours; empty if there is nothing to draw."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # ids of clip paths would else be those of other charts on the page
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        if not draw(axes):
            return ""
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _OF_PAGE.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _legend(axes: Any) -> None:
    """Name the colours above the chart, where they cover nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)


def _cost(axes: Any, days: list[dict[str, Any]]) -> bool:
    if not days:
        return False
    places = range(len(days))
    axes.bar([place - 0.2 for place in places], [day["before_usd"] for day in days], 0.4, color=_FIRST, label="before")
    axes.bar([place + 0.2 for place in places], [day["after_usd"] for day in days], 0.4, color=_SECOND, label="after")
    step = max(1, len(days) // 8)
    axes.set_xticks(list(places)[::step], [day["name"] for day in days][::step], rotation=20, ha="right")
    axes.set_ylabel("USD a day")
    _legend(axes)
    return True


def _similarity(axes: Any, histogram: Mapping[str, Any]) -> bool:
    edges, served, others = histogram["edges"], histogram["served"], histogram["not_served"]
    if not sum(served) + sum(others):
        return False
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], others, width, align="edge", color=_FIRST, label="not served")
    axes.bar(edges[:-1], served, width, bottom=others, align="edge", color=_SECOND, label="served")
    axes.set_xlabel("cosine to the nearest stored text")
    axes.set_ylabel("requests")
    _legend(axes)
    return True


def _scores(axes: Any, histogram: Mapping[str, Any], max_scores: list[float]) -> bool:
    edges, routed = histogram["edges"], histogram["routed"]
    if not sum(routed):
        return False
    axes.bar(edges[:-1], routed, edges[1] - edges[0], align="edge", color=_FIRST)
    for cut in max_scores[:-1]:
        axes.axvline(cut, color=_MARK, linestyle="--", linewidth=1.2)
    axes.set_xlabel("difficulty; dashed: the cut points")
    axes.set_ylabel("requests that miss")
    axes.set_xlim(0, 1)
    return True


def _curve(axes: Any, shown: Mapping[str, Any]) -> bool:
    points = shown["settings"]["curve"]
    if not points:
        return False
    usd = [point["usd"] for point in points]
    axes.fill_between(
        usd, [100 * point["kept"][1] for point in points], [100 * point["kept"][2] for point in points],
        color=_FIRST, alpha=0.25, linewidth=0,
    )  # fmt: skip
    axes.plot(usd, [100 * point["kept"][0] for point in points], color=_FIRST, label="cut points, with the interval")
    best = shown["settings"]["best"]["max_scores"]
    if best is not None:
        (chosen,) = [
            point for point in shown["settings"]["quality"] if point["max_scores"] == [round(b, 3) for b in best]
        ][:1]
        axes.plot(chosen["usd"], 100 * chosen["kept"][0], "o", color=_MARK, label="best net saving")
    axes.plot(shown["month"]["after_usd"], 100 * shown["quality"]["kept"][0], "D", color=_SECOND, label="as configured")
    axes.set_xlabel("USD a month")
    axes.set_ylabel("quality kept, %")
    _legend(axes)
    return True
