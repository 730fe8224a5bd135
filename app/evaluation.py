"""Decisions replayed from files: the cache's on a stream of prompts, the router's on a list of them. No server runs."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.cache.calibration import calibrate, evidences, interval
from app.cache.pairs import read_pairs
from app.cache.semantic import model_names
from app.config import GatewayConfig, read_serve_file
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError
from app.jsonl import read_rows, write_rows
from app.local_cache import LocalCache, question
from app.routing import plan

_BLOCK = 64  # prompts scored at once
_FIXED = (0.80, 0.90, 0.92, 0.95)  # cosines at which caches are customarily cut
_LADDER = ("small", "mid", "large")
_CONSOLE = Console(stderr=True)


def evaluate_cache(stream: Path, out: Path, config_file: Path) -> dict[str, Any]:
    """Play a stream through the real cache decision and write a row for each request.

    Args:
        stream: JSONL rows `{"id", "prompt"}` in arrival order, the `id` by default the line's number.
        out: JSONL rows `{"id", "hit", "served_from", "similarity", "evidence", "reason", "ms"}`; `ms` is the lookup
            with its embedding.
        config_file: Whose cache to use; its Redis is a fresh one.

    Returns:
        Requests, hits, hit rate, how many prompts were refused because their answers are not for others, that share
        and the reasons, the lookup's median and 95th percentile in ms, and those of its stages. If the rows
        have a `class`, whose members may share an answer, also the wrong hits as a share of the hits with their 95 %
        interval, and beside them what fixed cosine thresholds make of the same stream with the same encoder.

    Raises:
        ConfigError: The configuration or a row cannot be read.
    """
    rows = _rows(stream)
    config = read_serve_file(config_file).config
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), persistent=False) as redis:
        decisions, refused, stages = asyncio.run(_play(rows, config, redis.url))
    write_rows(out, decisions)
    times = [row["ms"] for row in decisions]
    hits = sum(row["hit"] for row in decisions)
    figures: dict[str, Any] = {
        "requests": len(rows),
        "hits": hits,
        "hit_rate": round(hits / len(rows), 4),
        "refused": refused.total(),
        "refused_share": round(refused.total() / len(rows), 4),
        "refused_for": dict(refused),
        "lookup_p50_ms": round(statistics.median(times), 3),
        "lookup_p95_ms": round(float(np.percentile(times, 95)), 3),
        "stages": stages,
    }
    if all("class" in row for row in rows):
        group = {row["id"]: row["class"] for row in rows}
        served = [(row["id"], row["served_from"]) for row in decisions if row["hit"]]
        figures |= _judged(sum(group[new] != group[old] for new, old in served), hits)
        figures["fixed_thresholds"] = _fixed_thresholds(rows, config)
    return figures


def _judged(wrong: int, hits: int) -> dict[str, Any]:
    share = round(wrong / hits, 4) if hits else 0.0
    return {"wrong_hits": wrong, "wrong_share": share, "wrong_share_95": interval(wrong, hits)}


def _fixed_thresholds(rows: Sequence[dict[str, Any]], config: GatewayConfig) -> dict[str, Any]:
    """Play the stream by the customary rule: the nearest stored prompt, if its cosine reaches a fixed threshold."""
    texts = sorted({row["prompt"] for row in rows})
    embedder = config.cache.embedder.model_copy(update={"threads": os.cpu_count() or 1}).build()
    place = {text: i for i, text in enumerate(texts)}
    vectors = embedder.embed(texts)
    result: dict[str, Any] = {}
    for threshold in _FIXED:
        matrix = np.empty((len(texts), vectors.shape[1]), np.float32)
        classes: list[str] = []
        hits = wrong = 0
        for row in rows:
            vector = vectors[place[row["prompt"]]]
            cosines = matrix[: len(classes)] @ vector
            nearest = int(np.argmax(cosines)) if len(classes) else -1
            if nearest >= 0 and cosines[nearest] >= threshold:
                hits += 1
                wrong += classes[nearest] != row["class"]
            else:
                matrix[len(classes)] = vector
                classes.append(row["class"])
        result[f"{threshold:.2f}"] = {"hit_rate": round(hits / len(rows), 4), **_judged(wrong, hits)}
    return result


async def _play(
    rows: Sequence[dict[str, Any]], config: GatewayConfig, redis_url: str
) -> tuple[list[dict[str, Any]], Counter[str], dict[str, Any]]:
    cache = LocalCache(config.cache, redis_url)
    decisions = []
    refused: Counter[str] = Counter()
    for row in track(rows, "cache-eval", console=_CONSOLE):
        key = question(row["prompt"])
        started = time.perf_counter()
        lookup = await cache.lookup(key)
        ms = 1e3 * (time.perf_counter() - started)
        if lookup.status == "miss":
            await cache.keep(key, row["id"], lookup.embedding)
        elif lookup.status == "bypass":
            refused[lookup.reason] += 1
        decisions.append(
            {
                "id": row["id"],
                "hit": lookup.entry is not None,
                "served_from": lookup.entry.completion.body["id"] if lookup.entry else None,
                "similarity": None if lookup.similarity is None else round(lookup.similarity, 4),
                "evidence": None if lookup.evidence is None else round(lookup.evidence, 4),
                "reason": lookup.reason,
                "ms": round(ms, 3),
            }
        )
    await cache.close()
    return decisions, refused, cache.stages()


def evaluate_routing(prompts: Path, out: Path, config_file: Path) -> dict[str, Any]:
    """Score prompts with the real classifier and write a row for each.

    Args:
        prompts: JSONL rows `{"id", "prompt"}`.
        out: JSONL rows `{"id", "prompt", "score", "tier"}`; the score in [0, 1], the tier by the configuration.
        config_file: Whose classifier and tiers to use.

    Returns:
        Prompts, the share of each tier, and the mean ms a prompt took. If every row has the `tier` it needs, `small`,
        `mid` or `large`, and the configuration has three, also the share that goes to the right one, the confusion (a
        row for each needed tier, a column for each chosen one), the share of the large ones that goes to the first, and
        how well the scores, and the prompts' lengths, tell the small and the large from the rest, as AUC.

    Raises:
        ConfigError: The configuration or a row cannot be read.
    """
    rows = _rows(prompts)
    config = read_serve_file(config_file).config
    classifier = config.classifier.model_copy(update={"threads": os.cpu_count() or 1}).build()
    started = time.perf_counter()
    scored = []
    for start in track(range(0, len(rows), _BLOCK), "route-eval", console=_CONSOLE):
        block = rows[start : start + _BLOCK]
        scores = classifier.scores([row["prompt"] for row in block])
        for row, score in zip(block, map(float, scores), strict=True):
            tier = plan(score, config.tiers)[0].name
            scored.append({"id": row["id"], "prompt": row["prompt"], "score": round(score, 6), "tier": tier})
    seconds = time.perf_counter() - started
    write_rows(out, scored)
    names = [tier.name for tier in config.tiers]
    share = {name: round(sum(row["tier"] == name for row in scored) / len(scored), 4) for name in names}
    figures: dict[str, Any] = {
        "prompts": len(rows),
        "tiers": share,
        "ms_per_prompt": round(1e3 * seconds / len(rows), 3),
    }
    if len(names) == len(_LADDER) and all(row.get("tier") in _LADDER for row in rows):
        figures |= _placed(rows, scored, names)
    return figures


def _placed(rows: Sequence[dict[str, Any]], scored: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Compare each prompt's tier with the one it needs."""
    needed = np.array([_LADDER.index(row["tier"]) for row in rows])
    got = np.array([names.index(row["tier"]) for row in scored])
    measures = {"score": [row["score"] for row in scored], "length": [len(row["prompt"]) for row in rows]}
    return {
        "right_tier": round(float(np.mean(got == needed)), 4),
        "confusion": [[int(np.sum((needed == i) & (got == j))) for j in range(3)] for i in range(3)],
        "hard_to_small": round(float(np.mean(got[needed == 2] == 0)), 4) if (needed == 2).any() else 0.0,
        "auc": {
            name: {"small": auc(values, needed > 0), "large": auc(values, needed > 1)}
            for name, values in measures.items()
        },
    }


def auc(values: Sequence[float] | NDArray[Any], positive: NDArray[np.bool_]) -> float | None:
    """Return the chance that a positive has the higher value, ties half; None without both kinds."""
    from scipy.stats import mannwhitneyu

    if positive.all() or not positive.any():
        return None
    found = np.asarray(values, float)
    above = mannwhitneyu(found[positive], found[~positive]).statistic
    return round(float(above / (positive.sum() * (~positive).sum())), 4)


def calibrate_cache(
    pairs_file: Path, max_error_rate: float, confidence: float, out: Path | None, config_file: Path
) -> dict[str, Any]:
    """Calibrate the threshold of the configuration's cache on labelled pairs, and write it with its evidence.

    Args:
        pairs_file: JSONL rows `{"a", "b", "same"}`: the stored text, the new one, whether one answer serves both.
        out: Where the calibration goes; by default where the configuration has it.

    Returns:
        The calibration, with the share of the same pairs that would be hits.

    Raises:
        ConfigError: The pairs cannot be read, or cannot support the claim.
    """
    config = read_serve_file(config_file).config.cache
    threads = {"threads": os.cpu_count() or 1}
    verifier = config.verifier.model_copy(update=threads).build()
    embedder = config.embedder.model_copy(update=threads).build()
    pairs = read_pairs(pairs_file)
    same = np.array([pair.same for pair in pairs])
    blocks = track([pairs[i : i + 256] for i in range(0, len(pairs), 256)], "calibrate", console=_CONSOLE)
    found = np.concatenate([evidences(block, embedder.embed, verifier.verify, config.floor) for block in blocks])
    models = model_names(embedder.space, verifier.name)
    data = pairs_file.read_bytes()
    calibration = calibrate(found, same, models, data, max_error_rate, confidence)
    calibration.save(out or config.calibration_file())
    recall = float(np.mean(found[same] >= calibration.threshold))
    return {**asdict(calibration), "same_pairs_served": round(recall, 4)}


def _rows(file: Path) -> list[dict[str, Any]]:
    """Read JSONL rows with a `prompt`; one without an `id` has the number of its line."""
    rows = [{"id": number, **row, "prompt": str(row["prompt"])} for number, row in read_rows(file, "prompt")]
    if not rows:
        raise ConfigError(f"`{file}` has no rows")
    return rows
