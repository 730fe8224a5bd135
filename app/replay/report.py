"""The report of a replay: a page that needs nothing else, a summary for the terminal, and a configuration to use."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from app.cache.calibration import Calibration
from app.config import ServeFile
from app.replay.charts import charts
from app.replay.figures import case_table
from app.replay.settings import CONFIDENCE, CacheChoice
from app.replay.simulate import Simulation

_TITLES = {
    "cost": "Cost by day",
    "similarity": "How near the nearest stored text was",
    "curve": "Cost and quality of the routing",
    "scores": "Difficulty of what the cache does not answer",
}


def page(simulation: Simulation, shown: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    """Return the report as HTML.

    Args:
        shown: The figures,
        drawn: and the samples.
    """
    import jinja2
    import markupsafe

    source = Path(__file__).with_name("report.html.j2").read_text("utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    expected = shown["cache"]["expected_false_hits"]
    return template.from_string(source).render(
        f=shown,
        s=drawn,
        table=case_table(shown),
        titles=_TITLES,
        charts=charts(shown, [tier.max_score for tier in simulation.config.tiers]),
        false_hits=expected["of_hits"] if expected else None,
        groupings=[
            ("By tenant", shown["by_tenant"]),
            ("By route", shown["by_route"]),
            ("By model", shown["by_model"]),
            ("By profile", shown["by_profile"]),
            ("By hour of the day, UTC", shown["by_hour"]),
        ],
        parts=saved_by(shown["parts"]),
        pct=percent,
        coded=lambda line: markupsafe.Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(line)))),
    )


def percent(share: float, places: int = 1) -> str:
    """Write a share in percent."""
    return f"{100 * share:.{places}f} %"


def saved_by(parts: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return what each part saves a month, in words; what changes nothing is left out."""
    return [(_PARTS[name], f"-${-usd:,.2f}" if usd < 0 else f"${usd:,.2f}") for name, usd in parts.items() if usd]


_PARTS = {
    "cache_usd": "the cache",
    "best_tier_usd": "the best tier's price",
    "routing_usd": "cheaper tiers",
    "shaping_usd": "shaping",
}


def summary(shown: Mapping[str, Any], console: Console) -> None:
    """Print the case study's table and what else fits on a screen."""
    log, cache = shown["log"], shown["cache"]
    console.print(f"{log['requests']:,} requests in {log['days']:.1f} days, {log['bad_lines']:,} lines not readable")
    if log["left_out"]:
        console.print(f"  {log['left_out']:,} older requests left out, by `replay.max_requests`", markup=False)
    for reason, count in log["bad_reasons"].items():
        console.print(f"  {reason}: {count:,}", markup=False)
    table = Table("", "before", "after", "change")
    for row in case_table(shown):
        table.add_row(*row)
    console.print(table)
    facts = Table("", "", show_header=False)
    facts.add_row("from the cache", f"{percent(cache['hit_rate'])}: {percent(cache['exact'])} exact")
    if (expected := cache["expected_false_hits"]) and cache["semantic"]:
        facts.add_row("wrong hits, expected", _between(expected["of_hits"], 2))
    measured = cache["measured_false_hits"]
    if measured and measured["of_semantic_hits"]:
        told = f"{_between(measured['of_semantic_hits'], 2)} of {measured['decided']} compared by meaning"
        facts.add_row("wrong hits, measured", told)
    if shown["quality"]:
        facts.add_row("quality kept", _between(shown["quality"]["kept"], 1))
    facts.add_row("answered by", ", ".join(f"{tier} {percent(share)}" for tier, share in shown["tiers"].items()))
    parts = shown["parts"]
    facts.add_row("saved a month", ", ".join(f"{name} {usd}" for name, usd in saved_by(parts)))
    facts.add_row("best settings", _best(shown["settings"]["best"]))
    if estimated := [f"{name} of {count:,}" for name, count in log["estimated"].items() if count]:
        facts.add_row("estimated", ", ".join(estimated))
    facts.add_row("speed", f"{shown['speed']['requests_per_s_and_core']} requests a second and core")
    console.print(facts)


def _between(shares: list[float], places: int) -> str:
    estimate, low, high = (percent(share, places) for share in shares)
    return f"{estimate} ({low} to {high})"


def _best(best: Mapping[str, Any]) -> str:
    found = []
    if best["max_error_rate"] is not None:
        found.append(f"max_error_rate {best['max_error_rate']:g} (threshold {best['threshold']:g})")
    if best["quality"] is not None:
        cuts = ", ".join(f"{score:g}" for score in best["max_scores"][:-1])
        found.append(f"quality {best['quality']:g} (max_score {cuts})")
    return "; ".join(found) or "as configured"


def write_config(simulation: Simulation, file: ServeFile, out: Path) -> None:
    """Write the configuration with the best settings, and the log's models under `auto_models`.

    A threshold other than the calibrated one goes into a calibration of its own beside it, so that what is promised of
    it is known; the promises of the best settings are those that the gateway will hold to.
    """
    raw = yaml.safe_load(file.path.read_text("utf-8"))
    arguments = raw["applications"][0]["args"]
    shaped = {model for profile in simulation.config.profiles.values() for model in profile.models}  # routed anyway
    logged = [model for model in simulation.replayed.model.names if model and model not in shaped]
    arguments["auto_models"] = list(dict.fromkeys((*simulation.config.auto_models, *logged)))
    notes = []
    if cache := simulation.best_cache():
        section = arguments["cache"] = dict(arguments.get("cache") or {})
        if cache.point.threshold != round(simulation.present, 4):
            section |= _calibrated(simulation, cache, out)
        section["audit"] = {**(section.get("audit") or {}), "max_error_rate": cache.max_error_rate}
        notes.append(
            f"cache, threshold {cache.point.threshold:g}: by {cache.point.compared} answers compared and the "
            f"calibration, at most {cache.point.upper:.2%} of the hits by meaning are wrong"
        )
    if route := simulation.best_route():
        for tier, score in zip(arguments["tiers"], route.point.max_scores, strict=True):
            tier["max_score"] = round(score, 4)
        routing = arguments["routing"] = dict(arguments.get("routing") or {})
        # else the gateway's own checks move the cut points back to what was promised before
        routing["quality"] = {**(routing.get("quality") or {}), "kept": route.quality}
        notes.append(f"max_score: keeps at least {route.point.kept[1]:.1%} of the quality, as the report reckons it")
    head = "".join(f"# {note}.\n" for note in ("Written by `tierwise replay` from " + file.path.name, *notes))
    out.write_text(head + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), "utf-8")


def _calibrated(simulation: Simulation, cache: CacheChoice, out: Path) -> dict[str, Any]:
    """Return the settings of a new threshold: by a calibration, unless the present one is without any."""
    if simulation.config.cache.threshold is not None:
        return {"threshold": cache.point.threshold}
    file, point = out.resolve().with_suffix(".calibration.json"), cache.point
    Calibration(
        point.threshold,
        cache.max_error_rate,
        CONFIDENCE,
        hits=point.compared,
        wrong=math.ceil(point.wrong * point.compared),
        upper_bound=point.upper,
        models=simulation.config.cache.calibrated().models,
        data=hashlib.sha256(simulation.replayed.compared.tobytes()).hexdigest(),
    ).save(file)
    return {"calibration": str(file)}
