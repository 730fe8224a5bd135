"""The semantic cache with many entries in one scope: what a lookup takes, stage by stage, and what an entry weighs."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.cache import CacheConfig, RedisConfig, RedisStore
from app.embedded_redis import EmbeddedRedis
from app.local_cache import LocalCache, question
from app.schema import CacheKey, Embedding

_BLOCK = 100  # entries written at once
_LOOKUPS = 300
_QUANTISED = 0.01  # Redis keeps vectors as int8, so as near as that is right
_ANSWER = "An answer of some length, as a model gives to such a question. "
_VERBS = "store clean repair sell paint carry test label order recycle weigh insure rent ship sharpen polish".split()
_THINGS = (
    "bicycle kettle ladder drill tent guitar camera boiler carpet violin kayak printer mirror helmet oven lamp".split()
)
_PLACES = "attic garage cellar office garden kitchen workshop museum school hotel harbour library station farm".split()
_TIMES = "in winter|before a move|after a flood|on a budget|without tools|for a child|as a beginner|in one day".split(
    "|"
)

_PARTS = list(itertools.product(_VERBS, _THINGS, ["in the"], _PLACES, _TIMES))


def measure(entries: int, answer_chars: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill one scope of an embedded Redis, and look up stored texts, reworded.

    The texts are made of a few words, so their vectors crowd: harder for the search than real ones. Where there are
    more entries than such texts, a text is stored again with its vector turned a little, at random.

    Returns:
        `lookup_ms` as percentiles, `stages`, `bytes_per_entry`, `entries_per_s`, and `recall_at_1` of the search
        against comparing with every vector.
    """
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), persistent=False) as redis:
        return asyncio.run(_measure(entries, answer_chars, redis.url, say))


async def _measure(entries: int, answer_chars: int, url: str, say: Callable[[str], None]) -> dict[str, Any]:
    config = CacheConfig(max_entries=entries)
    embedder = config.embedder.build()
    say("embedding the texts")
    texts = [f"How do I {verb} a {' '.join(rest)}?" for verb, *rest in _PARTS][:entries]
    vectors = np.vstack([embedder.embed(texts[i : i + 512]) for i in range(0, len(texts), 512)])
    cache, redis = LocalCache(config, url), RedisConfig(timeout_s=30).build(url=url)
    before = await _used_memory(redis)
    started = time.perf_counter()
    answer = (_ANSWER * (answer_chars // len(_ANSWER) + 1))[:answer_chars]
    stored = await _fill(cache, texts, vectors, entries, answer, say)
    filled_s = time.perf_counter() - started
    size = (await _used_memory(redis) - before) / entries
    draw = np.random.default_rng(1)
    asked = [texts[i].replace("How do I", "What is the way to") for i in draw.integers(0, len(texts), _LOOKUPS)]
    times, found, hits = [], 0, 0
    for text in asked:
        started = time.perf_counter()
        lookup = await cache.lookup(question(text))
        times.append(1e3 * (time.perf_counter() - started))
        hits += lookup.status == "hit"
        assert lookup.embedding is not None
        nearest = float((stored @ np.frombuffer(lookup.embedding.vector, "<f4")).max())
        found += lookup.similarity is not None and lookup.similarity >= nearest - _QUANTISED
    await cache.close()
    await redis.close()
    p95, p99 = np.percentile(times, [95, 99])
    return {
        "entries": entries,
        "lookup_ms": {
            "p50": round(statistics.median(times), 2),
            "p95": round(float(p95), 2),
            "p99": round(float(p99), 2),
        },
        "stages": cache.stages(),
        "hit_rate": round(hits / len(asked), 3),
        "recall_at_1": round(found / len(asked), 3),
        "bytes_per_entry": round(size),
        "entries_per_s": round(entries / filled_s),
    }


async def _fill(
    cache: LocalCache,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    entries: int,
    answer: str,
    say: Callable[[str], None],
) -> NDArray[np.float32]:
    """Store the texts, and again with turned vectors until there are enough; return all vectors `(entries, dim)`."""
    draw, blocks = np.random.default_rng(0), []
    for start in range(0, entries, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, entries))
        copies = rows >= len(texts)
        turned = vectors[rows % len(texts)]
        turned = turned + copies[:, None] * draw.normal(0, 0.02, turned.shape).astype(np.float32)
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        keys = [_copied(question(texts[i % len(texts)]), i // len(texts)) for i in rows.tolist()]
        embeddings = [Embedding(cache.space, row.astype("<f4").tobytes()) for row in turned]
        await asyncio.gather(*(cache.keep(key, answer, row) for key, row in zip(keys, embeddings, strict=True)))
        blocks.append(turned)
        if start % 10_000 == 0:
            say(f"stored {start} of {entries}")
    return np.vstack(blocks).astype(np.float32)


def _copied(key: CacheKey, number: int) -> CacheKey:
    return replace(key, entry=f"{key.entry[:-4]}{number:04x}") if number else key


async def _used_memory(store: RedisStore) -> int:
    return int((await store.run(lambda client: client.info("memory")))["used_memory"])
