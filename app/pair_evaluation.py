"""The cache's decisions on labelled pairs: which of the same ones it serves, and which of the different it refuses."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from app.cache.calibration import interval
from app.cache.pairs import Pair, read_pairs
from app.config import read_serve_file
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError
from app.local_cache import LocalCache, question
from app.schema import CacheLookup


def evaluate_pairs(pairs_file: Path, config_file: Path) -> dict[str, Any]:
    """Store `a` of each pair alone, ask `b`, and count what the cache decides and why.

    Args:
        pairs_file: JSONL rows `{"a", "b", "same": 0|1}`, and a `kind` if it is to be told apart.
        config_file: Whose cache to use; its Redis is a fresh one.

    Returns:
        For the pairs that are the same, and for those that are not: how many, how many were decided rightly (served,
        refused), that share and its 95 % interval; in all, by kind, and by the reason of the decision.

    Raises:
        ConfigError: The configuration or the pairs cannot be read.
    """
    pairs = read_pairs(pairs_file)
    if not pairs:
        raise ConfigError(f"`{pairs_file}` has no rows")
    config = read_serve_file(config_file).config
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), persistent=False) as redis:
        lookups = asyncio.run(_decide(pairs, LocalCache(config.cache, redis.url)))
    decided = list(zip(pairs, lookups, strict=True))
    kinds = sorted({pair.kind for pair in pairs})
    reasons = Counter((lookup.reason, "same" if pair.same else "different") for pair, lookup in decided)
    return {
        **_counted(decided),
        "kinds": {kind: _counted([row for row in decided if row[0].kind == kind]) for kind in kinds},
        "reasons": {
            reason: {label: reasons[reason, label] for label in ("same", "different")}
            for reason in sorted({lookup.reason for lookup in lookups})
        },
    }


async def _decide(pairs: Sequence[Pair], cache: LocalCache) -> list[CacheLookup]:
    """Ask in a scope of its own for each pair, so that it meets no other."""
    lookups = []
    for i, pair in enumerate(track(pairs, "cache-pairs", console=Console(stderr=True))):
        stored, new = question(pair.a, f"pair {i}"), question(pair.b, f"pair {i}")
        await cache.keep(stored, "a")
        lookups.append(await cache.lookup(new))
    await cache.close()
    return lookups


def _counted(decided: Sequence[tuple[Pair, CacheLookup]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, same, rightly in (("same", True, "served"), ("different", False, "refused")):
        hits = [lookup.status == "hit" for pair, lookup in decided if pair.same is same]
        right = sum(hit is same for hit in hits)
        if hits:
            share = round(right / len(hits), 4)
            figures[name] = {"pairs": len(hits), rightly: right, "share": share, "share_95": interval(right, len(hits))}
    return figures
