"""The router's cut points from outcomes: `tierwise calibrate router`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from app.classifier.calibration import (
    Outcomes,
    RouterCalibration,
    RouterPoint,
    calibrate_budget,
    calibrate_router,
    frontier,
    halves,
    point,
)
from app.config import GatewayConfig, read_serve_file
from app.errors import ConfigError
from app.jsonl import read_rows
from app.pricing import cost_usd
from app.schema import Usage

_BLOCK = 64  # prompts scored at once
_CHARS_A_TOKEN = 4
_ANSWER_TOKENS = 264  # where a row does not say: the mean of Chatbot Arena (RouteLLM, arXiv 2406.18665, appendix D)
_CURVE_POINTS = 12
_ROUNDS = 200  # of the bootstrap
_LADDER = ("small", "mid", "large")


def calibrate(
    outcomes_file: Path,
    quality: float,
    budget: float | None,
    confidence: float,
    out: Path,
    plot: Path | None,
    config_file: Path,
) -> dict[str, Any]:
    """Choose cut points for a configuration's tiers, and write them with their evidence.

    Args:
        outcomes_file: JSONL rows with a `prompt`, and for each tier by its name, or as `small`, `mid` and `large`, what
            its answer was worth in [0, 1]; `prompt_tokens` and `answer_tokens` if they are known.
        quality: Share of the top tier's quality to keep.
        budget: USD for 1,000 requests to stay under instead.
        out: Where the calibration goes, for `classifier.calibration`.
        plot: Where a picture of the curve goes, as PNG.

    Returns:
        The calibration, and `curve`: choices from the dearest to the cheapest, with the interval of the quality kept.

    Raises:
        ConfigError: The rows cannot be read, are too few, or cannot support the promise.
    """
    config = read_serve_file(config_file).config
    rows = _rows(outcomes_file, [tier.name for tier in config.tiers])
    plain = config.classifier.model_copy(update={"calibration": None, "threads": os.cpu_count() or 1})
    classifier = plain.build()
    prompts = [str(row["prompt"]) for row in rows]
    starts = track(range(0, len(prompts), _BLOCK), "calibrate", console=Console(stderr=True))
    scores = np.concatenate([classifier.scores(prompts[start : start + _BLOCK]) for start in starts])
    outcomes = Outcomes(scores.astype(float), np.array([row["quality"] for row in rows]), costs(rows, config))
    max_scores = [tier.max_score for tier in config.tiers]
    data = hashlib.sha256(outcomes_file.read_bytes()).hexdigest()
    halves(outcomes)  # what cannot be calibrated has no curve either
    curve = _curve(outcomes, confidence)
    if plot is not None:
        _draw(curve, plot)
    found: RouterCalibration
    if budget is None:
        found = calibrate_router(outcomes, max_scores, quality, confidence, classifier.name, data)
    else:
        found = calibrate_budget(outcomes, max_scores, budget, confidence, classifier.name, data)
    found.save(out)
    return {**asdict(found), "curve": curve}


def costs(rows: Sequence[Mapping[str, Any]], config: GatewayConfig) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Price each row's answer by each tier's first model, `(rows, tiers)` in USD."""
    tariffs = config.prices()
    prices = [tariffs[next(iter(tier.models()))] for tier in config.tiers]

    def usage(row: Mapping[str, Any]) -> Usage:
        prompt = row.get("prompt_tokens") or max(1, len(row["prompt"]) // _CHARS_A_TOKEN)
        return Usage(int(prompt), int(row.get("answer_tokens") or _ANSWER_TOKENS))

    return np.array([[cost_usd(usage(row), price) for price in prices] for row in rows])


def _curve(outcomes: Outcomes, confidence: float) -> list[dict[str, Any]]:
    """Return some points of the frontier, the quality kept of each with a bootstrap interval."""
    points = frontier(outcomes)
    chosen = [points[i] for i in np.unique(np.linspace(0, len(points) - 1, _CURVE_POINTS).round().astype(int))]
    draw = np.random.default_rng(0)
    drawn = [draw.integers(0, len(outcomes.scores), len(outcomes.scores)) for _ in range(_ROUNDS)]
    samples = [rows for rows in drawn if outcomes.quality[rows, -1].any()]  # of nothing, nothing can be kept
    tails = [100 * (1 - confidence) / 2, 100 * (1 + confidence) / 2]

    def interval(choice: RouterPoint) -> list[float]:
        kept = [point(outcomes.take(rows), choice.cuts).quality_kept for rows in samples]
        return [round(float(end), 4) for end in np.percentile(kept, tails)]

    return [
        {
            "cuts": [round(cut, 4) for cut in choice.cuts],
            "usd_per_1k": round(choice.usd_per_1k, 4),
            "quality_kept": round(choice.quality_kept, 4),
            "interval": interval(choice),
            "shares": choice.shares,
        }
        for choice in chosen
    ]


def _draw(curve: Sequence[Mapping[str, Any]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    cost = [p["usd_per_1k"] for p in curve]
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    axes.fill_between(cost, [p["interval"][0] for p in curve], [p["interval"][1] for p in curve], alpha=0.2)
    axes.plot(cost, [p["quality_kept"] for p in curve], marker="o")
    axes.set_xlabel("USD for 1,000 requests")
    axes.set_ylabel("quality kept, of always asking the top tier")
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _rows(file: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Read rows that say what every tier's answer was worth; others are left out."""
    ladder = _LADDER if len(names) == len(_LADDER) else ()
    rows = []
    for number, row in read_rows(file, "prompt"):
        worth = [row.get(name, row.get(rung)) for name, rung in zip(names, ladder or names, strict=True)]
        if None in worth:
            continue
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in worth):
            raise ConfigError(f"`{file}` line {number}: outcomes must be between 0 and 1")
        rows.append({**row, "quality": [float(value) for value in worth if value is not None]})
    if not rows:
        raise ConfigError(f"`{file}` has no rows with an outcome for each of: {', '.join(names)}")
    return rows
