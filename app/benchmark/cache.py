"""The semantic cache with many entries in one scope: what a lookup takes, stage by stage, and what an entry weighs."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.cache import CacheConfig, RedisConfig, RedisSemanticCache, RedisStore
from app.cache.semantic import model_names
from app.embedded_redis import EmbeddedRedis
from app.embedding import OnnxEmbedderConfig
from app.schema import CacheEntry, CacheKey, Completion, Embedding

T = TypeVar("T")
_BLOCK = 100  # entries written at once
_LOOKUPS = 300
_VERBS = "store clean repair sell paint carry test label order recycle weigh insure rent ship sharpen polish".split()
_THINGS = (
    "bicycle kettle ladder drill tent guitar camera boiler carpet violin kayak printer mirror helmet oven lamp".split()
)
_PLACES = "attic garage cellar office garden kitchen workshop museum school hotel harbour library station farm".split()
_TIMES = "in winter|before a move|after a flood|on a budget|without tools|for a child|as a beginner|in one day".split(
    "|"
)


def measure(entries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill one scope of an embedded Redis, and look up stored texts, reworded.

    The texts are made of a few words, so their vectors crowd: harder for the search than real ones. Where there are
    more entries than such texts, a text is stored again with its vector turned a little, at random.

    Returns:
        `lookup_ms` and `stages_ms` as percentiles, `bytes_per_entry`, `entries_per_s`, and `recall_at_1` of the search
        against comparing with every vector.
    """
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), persistent=False) as redis:
        return asyncio.run(_measure(entries, redis.url, say))


async def _measure(entries: int, url: str, say: Callable[[str], None]) -> dict[str, Any]:
    config = CacheConfig(max_entries=entries)
    embedder, verifier = OnnxEmbedderConfig(threads=1).build(), config.verifier.build()
    space = model_names(embedder.space, verifier.name)
    store = RedisConfig(timeout_s=30).build(config.limits, url)
    before = await _used_memory(store)
    say("embedding the texts")
    texts = [" ".join(words) for words in itertools.product(_VERBS, _THINGS, _PLACES, _TIMES)]
    texts = [f"How do I {verb} a {rest}?" for verb, _, rest in (text.partition(" ") for text in texts)][:entries]
    vectors = np.vstack([embedder.embed(texts[i : i + 512]) for i in range(0, len(texts), 512)])
    started = time.perf_counter()
    stored = await _fill(store, space, texts, vectors, entries, say)
    filled_s = time.perf_counter() - started
    size = (await _used_memory(store) - before) / entries
    stages: dict[str, list[float]] = {"embed": [], "search": [], "fetch": [], "verify": []}

    async def embed(text: str) -> NDArray[np.float32]:
        return np.asarray(embedder.embed([text])[0], np.float32)

    async def verify(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return verifier.verify(pairs)

    store.nearest = _timed(store.nearest, stages["search"])  # type: ignore[method-assign]
    store.fetch = _timed(store.fetch, stages["fetch"])  # type: ignore[method-assign]
    cache = RedisSemanticCache(
        config,
        store,
        _timed(embed, stages["embed"]),
        _timed(verify, stages["verify"]),
        space,
        config.threshold_for(space),
    )
    draw = np.random.default_rng(1)
    asked = [texts[i].replace("How do I", "What is the way to") for i in draw.integers(0, len(texts), _LOOKUPS)]
    times, found, hits = [], 0, 0
    for text in asked:
        started = time.perf_counter()
        lookup = await cache.lookup(_key(text))
        times.append(1e3 * (time.perf_counter() - started))
        hits += lookup.status == "hit"
        vector = np.frombuffer(lookup.embedding.vector, "<f4") if lookup.embedding else np.zeros(1)
        # Redis keeps int8, so as near as that is right
        found += lookup.similarity is not None and lookup.similarity >= float((stored @ vector).max()) - 0.01
    await store.close()
    return {
        "entries": entries,
        "lookup_ms": _percentiles(times),
        "stages_ms": {stage: _percentiles(taken) for stage, taken in stages.items() if taken},
        "hit_rate": round(hits / len(asked), 3),
        "recall_at_1": round(found / len(asked), 3),
        "bytes_per_entry": round(size),
        "entries_per_s": round(entries / filled_s),
    }


async def _fill(
    store: RedisStore,
    space: str,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    entries: int,
    say: Callable[[str], None],
) -> NDArray[np.float32]:
    """Store the texts, and again with turned vectors until there are enough; return all vectors `(entries, dim)`."""
    draw, blocks = np.random.default_rng(0), []
    for start in range(0, entries, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, entries))
        block = vectors[rows % len(texts)]
        turned = block + (rows >= len(texts))[:, None] * draw.normal(0, 0.02, block.shape).astype(np.float32)
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        await asyncio.gather(
            *(
                store.put(_key(f"{texts[i % len(texts)]}#{i}"), _entry(texts[i % len(texts)]), _embedding(space, row))
                for i, row in zip(rows.tolist(), turned, strict=True)
            )
        )
        blocks.append(turned)
        if start % 10_000 == 0:
            say(f"stored {start} of {entries}")
    return np.vstack(blocks).astype(np.float32)


def _key(text: str) -> CacheKey:
    return CacheKey("benchmark", text.encode().hex(), text.partition("#")[0], True)


def _entry(text: str) -> CacheEntry:
    message = {"role": "assistant", "content": f"An answer of some length to the question: {text} " * 8}
    body = {"id": "x", "created": 0, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return CacheEntry(text, Completion(body, "none"), "none", "benchmark")


def _embedding(space: str, vector: NDArray[np.float32]) -> Embedding:
    return Embedding(space, vector.astype("<f4").tobytes())


async def _used_memory(store: RedisStore) -> int:
    return int((await store.run(lambda client: client.info("memory")))["used_memory"])


def _timed(call: Callable[..., Awaitable[T]], times: list[float]) -> Callable[..., Awaitable[T]]:
    async def timed(*arguments: Any) -> T:
        started = time.perf_counter()
        try:
            return await call(*arguments)
        finally:
            times.append(1e3 * (time.perf_counter() - started))

    return timed


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    p95, p99 = np.percentile(times, [95, 99])
    return {"p50": round(statistics.median(times), 2), "p95": round(float(p95), 2), "p99": round(float(p99), 2)}
