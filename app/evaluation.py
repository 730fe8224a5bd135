"""Decisions replayed from files: the cache's on a stream of prompts, the router's on a list of them. No server runs."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.cache import RedisConfig, RedisSemanticCache, cache_key
from app.config import GatewayConfig, read_serve_file
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError
from app.routing import plan
from app.schema import CacheEntry, CacheLookup, Completion

_BLOCK = 64  # prompts scored at once
_CONSOLE = Console(stderr=True)


def evaluate_cache(stream: Path, out: Path, config_file: Path) -> dict[str, Any]:
    """Play a stream through the real cache decision and write a row for each request.

    Args:
        stream: JSONL rows `{"id", "prompt"}` in arrival order; a miss is stored under its id.
        out: JSONL rows `{"id", "hit", "served_from", "similarity", "ms"}`; `ms` is the lookup with its embedding.
        config_file: Whose cache to use; its Redis is a fresh one.

    Returns:
        Requests, hits, hit rate and the lookup's median and 95th percentile in ms.

    Raises:
        ConfigError: The configuration or a row cannot be read.
    """
    rows = _rows(stream)
    config = read_serve_file(config_file).config
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), persistent=False) as redis:
        decisions = asyncio.run(_play(rows, config, redis.url))
    _write(out, decisions)
    times = [row["ms"] for row in decisions]
    hits = sum(row["hit"] for row in decisions)
    return {
        "requests": len(rows),
        "hits": hits,
        "hit_rate": round(hits / len(rows), 4),
        "lookup_p50_ms": round(statistics.median(times), 3),
        "lookup_p95_ms": round(float(np.percentile(times, 95)), 3),
    }


async def _play(rows: Sequence[dict[str, Any]], config: GatewayConfig, redis_url: str) -> list[dict[str, Any]]:
    embedder = config.cache.embedder.build()
    store = RedisConfig(timeout_s=5).build(config.cache.ttl_s, redis_url)

    async def embed(text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = embedder.embed([text])[0]
        return vector

    cache = RedisSemanticCache(config.cache, store, embed, embedder.space)
    decisions = []
    for row in track(rows, "cache-eval", console=_CONSOLE):
        body = {"model": "auto", "messages": [{"role": "user", "content": row["prompt"]}]}
        key = cache_key(body, "evaluation")
        started = time.perf_counter()
        exact = await store.get(key)
        lookup = CacheLookup("hit", "exact", 1.0, exact) if exact else await cache.lookup(key)
        ms = 1e3 * (time.perf_counter() - started)
        if lookup.entry is None:
            await store.put(key, CacheEntry(key.text, Completion({"id": row["id"]}, "none"), "none"), lookup.embedding)
        decisions.append(
            {
                "id": row["id"],
                "hit": lookup.entry is not None,
                "served_from": lookup.entry.completion.body["id"] if lookup.entry else None,
                "similarity": None if lookup.similarity is None else round(lookup.similarity, 4),
                "ms": round(ms, 3),
            }
        )
    await store.close()
    return decisions


def evaluate_routing(prompts: Path, out: Path, config_file: Path) -> dict[str, Any]:
    """Score prompts with the real classifier and write a row for each.

    Args:
        prompts: JSONL rows `{"id", "prompt"}`.
        out: JSONL rows `{"id", "prompt", "score", "tier"}`; the score in [0, 1], the tier by the configuration.
        config_file: Whose classifier and tiers to use.

    Returns:
        Prompts, the share of each tier, and the mean ms a prompt took.

    Raises:
        ConfigError: The configuration or a row cannot be read.
    """
    rows = _rows(prompts)
    config = read_serve_file(config_file).config
    encoder = config.classifier.encoder.model_copy(update={"threads": os.cpu_count() or 1})
    classifier = config.classifier.model_copy(update={"encoder": encoder}).build()
    started = time.perf_counter()
    scored = []
    for start in track(range(0, len(rows), _BLOCK), "route-eval", console=_CONSOLE):
        block = rows[start : start + _BLOCK]
        scores = classifier.scores([row["prompt"] for row in block])
        for row, score in zip(block, map(float, scores), strict=True):
            tier = plan(score, config.tiers)[0].name
            scored.append({"id": row["id"], "prompt": row["prompt"], "score": round(score, 6), "tier": tier})
    seconds = time.perf_counter() - started
    _write(out, scored)
    names = [tier.name for tier in config.tiers]
    share = {name: round(sum(row["tier"] == name for row in scored) / len(scored), 4) for name in names}
    return {"prompts": len(rows), "tiers": share, "ms_per_prompt": round(1e3 * seconds / len(rows), 3)}


def _rows(file: Path) -> list[dict[str, Any]]:
    """Read JSONL rows with an `id` and a `prompt`."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read `{file}`: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({"id": row["id"], "prompt": str(row["prompt"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'`{file}` line {number} is not a JSON object with "id" and "prompt"') from error
    if not rows:
        raise ConfigError(f"`{file}` has no rows")
    return rows


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
