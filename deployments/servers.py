"""What each replica holds. Plain classes: `graph.py` names, wraps and binds them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray import serve

from app.cache import CacheConfig, RedisConfig, RedisSemanticCache
from app.cache.admin import CacheAdmin
from app.cache.bounds import RedisBounds
from app.cache.semantic import model_names
from app.classifier import ClassifierConfig
from app.embedding import ServedEmbedder
from app.errors import CacheUnavailableError, UpstreamError
from app.protocols import ChatProvider
from app.routing import TierConfig
from app.schema import CacheKey, CacheLookup, Completion, PartStatus, StreamPart, Vectors

log = logging.getLogger("ray.serve")
T = TypeVar("T")


class CacheServer:
    """The semantic cache: one encoder, one Redis client."""

    def __init__(self, config: CacheConfig, redis: RedisConfig) -> None:
        self._embedder = config.embedder.build()
        self._store = redis.build(config.limits)
        self._verifier = config.verifier.build()
        space = model_names(self._embedder.space, self._verifier.name)
        self._threshold = config.threshold_for(space)
        self._bounds = RedisBounds(self._store, config.max_error_rate(), config.audit.confidence)
        self._cache = RedisSemanticCache(
            config, self._store, self._embed, self._verify, space, self._threshold, self._bounds.steps
        )
        self._served = ServedEmbedder(self._embedder, config.embeddings.names(config.embedder.model))
        self._sweep_s = config.sweep_s
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        """Remove what has expired, now and then; the other replicas do so too, and none is in another's way."""
        admin = CacheAdmin(self._store)
        while True:
            await asyncio.sleep(self._sweep_s * random.uniform(0.5, 1.5))
            try:
                await admin.sweep()
            except CacheUnavailableError as error:
                log.warning("the cache was not swept: %s", error.message)

    async def lookup(self, key: CacheKey) -> CacheLookup:
        """Decide whether a stored answer serves the key's text."""
        return await self._cache.lookup(key)

    async def agree(self, a: str, b: str) -> bool | None:
        """Whether two answers in free text say the same; None where that cannot be told."""
        return await self._cache.agree(a, b)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """Embed whole texts for a client."""
        return await self._served.embed(model, texts)

    async def status(self) -> PartStatus:
        """Say whether lookups work, and how the bound on wrong hits stands over all scopes."""
        try:
            await self._store.ping()
            bound = await self._bounds.read()
        except CacheUnavailableError as error:
            return PartStatus("cache", "down", {"reason": error.message})
        detail = {"embedder": self._embedder.space, "verifier": self._verifier.name, "threshold": self._threshold}
        checks = {"checked_hits": bound.hits.checked, "wrong_hits": bound.hits.wrong, "threshold_steps": bound.steps}
        return PartStatus("cache", "up", detail | checks)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator]
    async def _embed(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return list(await asyncio.to_thread(self._embedder.embed, texts))

    async def _verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return await asyncio.to_thread(self._verifier.verify, pairs)


class ClassifierServer:
    """The difficulty classifier."""

    def __init__(self, config: ClassifierConfig) -> None:
        self._classifier = config.build()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator]
    async def score(self, prompts: list[str]) -> list[float]:
        """Score prompts in [0, 1]; one at a time for the caller, batched here."""
        return [float(score) for score in await asyncio.to_thread(self._classifier.scores, prompts)]

    async def status(self) -> PartStatus:
        """Say that the model is loaded."""
        return PartStatus("classifier", "up", {})


class TierServer:
    """An API tier: its targets in order, one client each."""

    def __init__(self, tier: TierConfig) -> None:
        self._tier = tier
        self._targets = {target.model: target.build() for target in tier.targets if target.available()}

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """Answer by the first target that can."""
        return await self._first(body, lambda target: target.complete(body))

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        """Stream from the first target that sends a chunk."""

        async def opened(target: ChatProvider) -> tuple[StreamPart, AsyncGenerator[StreamPart, None]]:
            stream = target.stream(body)
            first = await anext(stream, None)
            if first is None:
                raise UpstreamError("the stream ended before its first chunk", self._tier.name)
            return first, stream

        part, rest = await self._first(body, opened)
        try:
            yield part
            async for part in rest:
                yield part
        finally:
            await rest.aclose()  # a client that went away: let go of the upstream's connection

    async def status(self) -> PartStatus:
        """Say which targets have their keys; upstreams are not called, since that would cost."""
        missing = self._tier.missing_keys()
        detail = {"targets": list(self._targets)} | ({"missing": missing} if missing else {})
        return PartStatus(f"tier-{self._tier.name}", "up" if self._targets else "down", detail)

    async def aclose(self) -> None:
        """Close the targets' connections."""
        for target in self._targets.values():
            await target.aclose()

    async def _first(self, body: Mapping[str, Any], ask: Callable[[ChatProvider], Coroutine[Any, Any, T]]) -> T:
        model = body.get("model")
        named = self._tier.models().keys() & {model}
        last = UpstreamError(f"the API key of {model} is not set", self._tier.name)
        for target in [self._targets[name] for name in self._targets if not named or name in named]:
            try:
                return await ask(target)
            except UpstreamError as error:
                log.warning("tier %s: %s", self._tier.name, error.message)
                last = error
        raise last
