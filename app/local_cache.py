"""The cache in this process, for evaluation: the real decision over a real Redis, timed by stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.cache import CacheConfig, RedisConfig, RedisSemanticCache, cache_key
from app.cache.semantic import model_names
from app.cache.volatile import uncacheable
from app.schema import CacheEntry, CacheKey, CacheLookup, Completion, Embedding

T = TypeVar("T")


def question(text: str, tenant: str = "evaluation") -> CacheKey:
    """Return the key of a request that is nothing but a text."""
    return cache_key({"model": "auto", "messages": [{"role": "user", "content": text}]}, tenant)


class LocalCache:
    """Looks up and stores as the gateway does.

    Attributes:
        space: Names the encoder and the verifier.
    """

    def __init__(self, config: CacheConfig, redis_url: str) -> None:
        embedder, verifier = config.embedder.build(), config.verifier.build()
        self._config = config
        self.space = model_names(embedder.space, verifier.name)
        self._store = RedisConfig(timeout_s=5).build(config.limits, redis_url)
        self._spent: dict[str, float] = {}  # ms of the present lookup by stage
        self._times: dict[str, list[float]] = {}

        async def embed(text: str) -> NDArray[np.float32]:
            vector: NDArray[np.float32] = embedder.embed([text])[0]
            return vector

        async def verify(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
            return verifier.verify(pairs)

        for method, stage in (("get", "exact"), ("nearest", "search"), ("fetch", "fetch")):
            setattr(self._store, method, self._timed(stage, getattr(self._store, method)))
        self._embed = self._timed("embed", embed)
        threshold = config.threshold_for(self.space)
        self._cache = RedisSemanticCache(
            config, self._store, self._embed, self._timed("verify", verify), self.space, threshold
        )

    async def lookup(self, key: CacheKey) -> CacheLookup:
        """Look up as the gateway does: not at all, exactly, by meaning."""
        if refusal := uncacheable(key.text, self._config.uncacheable):
            return CacheLookup("bypass", refusal)
        self._spent = {}
        started = time.perf_counter()
        exact = await self._store.get(key)
        lookup = CacheLookup("hit", "exact", 1.0, None, exact) if exact else await self._cache.lookup(key)
        if not exact:
            self._spent["rules"] = 1e3 * (time.perf_counter() - started) - sum(self._spent.values())
        for stage, ms in self._spent.items():
            self._times.setdefault(stage, []).append(ms)
        return lookup

    async def keep(self, key: CacheKey, name: str, embedding: Embedding | None = None) -> None:
        """Store an answer of that name to the key's text, unless answers to it are not for others."""
        if uncacheable(key.text, self._config.uncacheable):
            return
        if embedding is None:
            embedding = Embedding(self.space, (await self._embed(key.text)).astype("<f4").tobytes())
        await self._store.put(key, CacheEntry(key.text, Completion({"id": name}, "none"), "none"), embedding)

    def stages(self) -> dict[str, dict[str, Any]]:
        """Return how many lookups came to each stage, and its median and 95th percentile in ms.

        `rules` is what the others leave over: the guard, the surface and the way between them.
        """
        return {
            stage: {
                "lookups": len(self._times[stage]),
                "p50_ms": round(statistics.median(self._times[stage]), 3),
                "p95_ms": round(float(np.percentile(self._times[stage], 95)), 3),
            }
            for stage in ("exact", "embed", "search", "fetch", "rules", "verify")
            if stage in self._times
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._store.close()

    def _timed(self, stage: str, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def timed(*args: Any) -> T:
            started = time.perf_counter()
            result = await call(*args)
            self._spent[stage] = self._spent.get(stage, 0.0) + 1e3 * (time.perf_counter() - started)
            return result

        return timed
