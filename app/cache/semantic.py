"""The semantic cache: embed the text, ask Redis for its neighbours, decide, fetch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from app.cache.decision import decide
from app.cache.store import RedisStore
from app.embedding import EmbedderConfig
from app.schema import CacheKey, CacheLookup, Embedding
from app.section import Section


class CacheConfig(Section):
    """What is cached, for how long, and how alike is alike enough.

    A request whose `temperature` is above `max_temperature` asks for variety and bypasses the cache.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.92
    candidates: PositiveInt = 4
    ttl_s: PositiveInt = 24 * 3600
    max_temperature: NonNegativeFloat = 1.0
    embedder: EmbedderConfig = EmbedderConfig()


class RedisSemanticCache:
    """A SemanticCache over a RedisStore.

    Args:
        embed: Gives the vector of a text, `(dim,)` of L2 norm 1; batched by the replica that holds the model.
        space: The embedder's name of its vectors.
    """

    def __init__(
        self,
        config: CacheConfig,
        store: RedisStore,
        embed: Callable[[str], Awaitable[NDArray[np.float32]]],
        space: str,
    ) -> None:
        self._config = config
        self._store = store
        self._embed = embed
        self._space = space

    async def lookup(self, key: CacheKey) -> CacheLookup:
        """Decide whether a stored answer of the key's scope answers its text.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        vector = await self._embed(key.text)
        embedding = Embedding(self._space, vector.astype("<f4").tobytes())
        candidates = await self._store.nearest(key, embedding, self._config.candidates)
        similarity = candidates[0].similarity if candidates else None
        while (decision := decide(candidates, self._config.threshold)).candidate:
            entry = await self._store.fetch(key, decision.candidate, embedding)
            if entry is not None:
                return CacheLookup("hit", decision.reason, decision.candidate.similarity, entry, embedding)
            candidates.remove(decision.candidate)  # expired: the next may serve
        return CacheLookup("miss", decision.reason, similarity, None, embedding)
