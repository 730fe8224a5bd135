"""The figures of a replay, as one JSON object: what the report, the terminal and the case study's table show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.cache.calibration import interval
from app.replay.files import shown_name
from app.replay.groups import Groups, clock
from app.replay.intervals import intervals, lost
from app.replay.settings import CacheChoice, RouteChoice, RoutePoint
from app.replay.simulate import Simulation
from app.replay.wording import assumptions
from app.replay.work import DIFFERENT, UNKNOWN

Floats = NDArray[np.float64]


def figures(simulation: Simulation) -> dict[str, Any]:
    """Return all figures but the samples of prompts."""
    replayed, costs = simulation.replayed, simulation.costs
    hit, rows = replayed.hit, len(replayed.hit)
    before, after = float(costs.before_usd.sum()), float(simulation.after_usd.sum())
    month = simulation.a_month
    times = replayed.columns["time"]
    tiers = [tier.name for tier in simulation.config.tiers]
    cache = _cache(simulation)
    expected = cache["expected_false_hits"]
    groups = Groups(simulation, expected and expected["of_semantic_hits"])
    routed = np.bincount(costs.tier[~hit], minlength=len(tiers)) / rows
    return {
        "log": {
            "files": [shown_name(file) for file in replayed.files],
            "requests": rows,
            "left_out": replayed.left_out,
            "from": None if replayed.untimed else _date(float(times.min())),
            "to": None if replayed.untimed else _date(float(times.max())),
            "days": round(replayed.days, 3),
            "bad_lines": replayed.bad.count,
            "bad_reasons": replayed.bad.reasons,
            "first_bad_lines": [
                {"file": shown_name(replayed.files[file]), "line": line, "reason": reason}
                for file, line, reason in replayed.bad.first
            ],
            "estimated": dict(costs.estimated),
            "unpriced_models": list(costs.unpriced),
        },
        "month": {
            "before_usd": round(before * month, 2),
            "after_usd": round(after * month, 2),
            "saved_usd": round((before - after) * month, 2),
            "saved_share": _share(before - after, before),
        },
        "latency": {name: _latency(seconds) for name, seconds in _latencies(simulation).items()},
        "reliability": _reliability(simulation),
        "intervals": intervals(simulation),
        "cache": cache,
        "tiers": {"cache": round(float(hit.mean()), 4), **dict(zip(tiers, routed.round(4).tolist(), strict=True))},
        "routes": _routes(simulation),
        "quality": _quality(simulation),
        "parts": _parts(simulation),
        "by_tenant": groups.by(replayed.tenant),
        "by_route": groups.by(replayed.route),
        "by_model": groups.by(replayed.model),
        "by_profile": groups.by(replayed.profile),
        "by_hour": groups.by(clock(times, "%H"), by_name=True),
        "by_day": groups.by(clock(times, "%Y-%m-%d"), by_name=True, most=400),
        "settings": _settings(simulation),
        "similarity": _histogram(
            replayed.similarity, np.linspace(0, 1, 41), {"served": hit & ~replayed.exact, "not_served": ~hit}
        ),
        "scores": _histogram(replayed.score, np.linspace(0, 1, 41), {"routed": ~hit}),
        "speed": {
            "seconds": dict(replayed.seconds),
            "cores": replayed.cores,
            "requests_per_s_and_core": round(rows / max(sum(replayed.seconds.values()), 1e-9) / replayed.cores, 2),
        },
        "assumptions": assumptions(simulation),
    }


def _parts(simulation: Simulation) -> dict[str, float]:
    """Return what each part saves a month: the hits; then of the rest, one after the other, the best tier's price
    against that of the logged models, the cheaper tiers, the shape of the requests.
    """
    costs, routed = simulation.costs, simulation.routed
    saved = {
        "cache_usd": costs.before_usd[~routed],
        "best_tier_usd": (costs.before_usd - costs.top_usd)[routed],
        "routing_usd": (costs.top_usd - costs.unshaped_usd)[routed],
        "shaping_usd": (costs.unshaped_usd - simulation.after_usd)[routed],
    }
    return {name: round(float(usd.sum()) * simulation.a_month, 2) for name, usd in saved.items()}


def case_table(shown: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the case study's table of figures: what, before, after, change."""
    month, latency, reliability = shown["month"], shown["latency"], shown["reliability"]
    mean = {name: latency[name]["mean_s"] for name in ("before", "after")}
    p95 = {name: latency[name]["p95_s"] for name in ("before", "after")}
    return [
        ("Cost a month", f"${month['before_usd']:,.2f}", f"${month['after_usd']:,.2f}", _change(-month["saved_share"])),
        ("Average latency", f"{mean['before']:.2f} s", f"{mean['after']:.2f} s", _times(mean["before"], mean["after"])),
        ("Latency, p95", f"{p95['before']:.2f} s", f"{p95['after']:.2f} s", _times(p95["before"], p95["after"])),
        (
            "Reliability",
            f"{100 * reliability['before']:.2f} %",
            f"{100 * reliability['after']:.2f} %",
            f"{100 * (reliability['after'] - reliability['before']):+.2f} points",
        ),
    ]


def _change(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _times(before: float, after: float) -> str:
    if not before or not after:
        return "-"
    return f"{before / after:.1f} times faster" if after <= before else f"{after / before:.1f} times slower"


def _latencies(simulation: Simulation) -> dict[str, Floats]:
    return {"before": simulation.costs.before_s[simulation.replayed.answered], "after": simulation.after_s}


def _latency(seconds: Floats) -> dict[str, float]:
    return {
        "mean_s": round(float(seconds.mean()), 3),
        "p50_s": round(float(np.median(seconds)), 3),
        "p95_s": round(float(np.percentile(seconds, 95)), 3),
    }


def _reliability(simulation: Simulation) -> dict[str, float]:
    """Return the answered share; every call is taken to fail as often as the log's requests did, each on its own."""
    failed = 1 - float(np.asarray(simulation.replayed.columns["ok"]).mean())
    return {"before": round(1 - failed, 5), "after": round(1 - lost(simulation, failed) / len(simulation.routed), 9)}


def _cache(simulation: Simulation) -> dict[str, Any]:
    replayed, config = simulation.replayed, simulation.config.cache
    meant = replayed.hit & ~replayed.exact
    counts = np.bincount(replayed.reason.index, minlength=len(replayed.reason.names))
    of_hits = int(meant.sum()) / max(int(replayed.hit.sum()), 1)
    expected: dict[str, Any] | None = None
    if config.threshold is None:
        made = config.calibrated()
        low, high = interval(made.wrong, made.hits)
        expected = {
            "of_semantic_hits": [round(made.wrong / made.hits, 5), low, high],
            "of_hits": [round(share * of_hits, 6) for share in (made.wrong / made.hits, low, high)],
            "from": f"{made.wrong} of {made.hits} hits wrong on the pairs of the calibration",
        }
    hits = meant[replayed.compared[:, 0]]
    says = replayed.compared[hits, 2]
    wrong, decided = int((says == DIFFERENT).sum()), int((says != UNKNOWN).sum())
    measured = None
    if len(says):
        share = [round(wrong / decided, 5), *interval(wrong, decided)] if decided else None
        measured = {"of_semantic_hits": share, "wrong": wrong, "decided": decided, "undecided": len(says) - decided}
    return {
        "hit_rate": round(float(replayed.hit.mean()), 4),
        "exact": round(float(replayed.exact.mean()), 4),
        "semantic": round(float(meant.mean()), 4),
        "bypass": round(float(replayed.reason.are(lambda name: name.startswith("bypass")).mean()), 4),
        "expected_false_hits": expected,
        "measured_false_hits": measured,
        "reasons": dict(sorted(zip(replayed.reason.names, counts.tolist(), strict=True), key=lambda item: -item[1])),
    }


def _routes(simulation: Simulation) -> dict[str, int]:
    """Count the routed requests by what decided on their tier."""
    reason = simulation.costs.routes.reason
    counts = np.bincount(reason.index[simulation.routed], minlength=len(reason.names))
    found = zip(reason.names, counts.tolist(), strict=True)
    return {name: count for name, count in sorted(found, key=lambda item: -item[1]) if count}


def _quality(simulation: Simulation) -> dict[str, Any] | None:
    if simulation.quality is None:
        return None
    routed = simulation.routed
    kept = simulation.quality.kept(simulation.replayed.score[routed].astype(float), simulation.costs.tier[routed])
    return {"kept": [round(share, 4) for share in kept]}


def _histogram(values: NDArray[Any], edges: Floats, groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
    finite = np.isfinite(values)
    clipped = np.clip(values, edges[0], edges[-1])
    counts = {name: np.histogram(clipped[finite & of], edges)[0].tolist() for name, of in groups.items()}
    return {"edges": [round(float(edge), 4) for edge in edges], **counts}


def _settings(simulation: Simulation) -> dict[str, Any]:
    month = simulation.a_month
    best_cache, best_route = simulation.best_cache(), simulation.best_route()
    return {
        "threshold": simulation.present,
        "wrong_answer_usd": round(simulation.wrong_usd, 6),
        "max_error_rate": [
            {**asdict(choice.point), **_rounded(choice, month), "max_error_rate": choice.max_error_rate}
            for choice in simulation.cache_choices
        ],
        "quality": [
            {"quality": choice.quality, **_route(choice.point, month), **_rounded(choice, month)}
            for choice in simulation.route_choices
        ],
        "curve": [_route(point, month) for point in simulation.route_points],
        "best": {
            "max_error_rate": best_cache.max_error_rate if best_cache else None,
            "threshold": best_cache.point.threshold if best_cache else None,
            "quality": best_route.quality if best_route else None,
            "max_scores": list(best_route.point.max_scores) if best_route else None,
        },
    }


def _rounded(choice: CacheChoice | RouteChoice, month: float) -> dict[str, float]:
    saved = {"saved_usd": round(choice.point.saved_usd * month, 2)} if isinstance(choice, CacheChoice) else {}
    return {**saved, "net_usd": round(choice.net_usd * month, 2)}


def _route(point: RoutePoint, month: float) -> dict[str, Any]:
    return {
        "max_scores": [round(score, 3) for score in point.max_scores],
        "usd": round(point.usd * month, 4),
        "kept": [round(share, 4) for share in point.kept],
        "shares": [round(share, 4) for share in point.shares],
    }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def _date(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).isoformat(timespec="seconds")
