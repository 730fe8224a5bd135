"""What a request asks of the cache. A cache that is down costs a miss, never an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable

from app.errors import CacheUnavailableError
from app.protocols import ExactCache, SemanticCache
from app.schema import TOO_OLD, CacheEntry, CacheKey, CacheLookup, Completion

log = logging.getLogger(__name__)
NOT_EXACT = CacheLookup("miss", "exact only")  # what may still be found by meaning
_DOWN = CacheLookup("miss", "cache unavailable")


class Lookups:
    """Looks answers up and stores them.

    Args:
        exact: Where they are, by their key; None without any cache.
        semantic: Finds those of the same meaning.
        now: Seconds since the epoch.
    """

    def __init__(self, exact: ExactCache | None, semantic: SemanticCache | None, now: Callable[[], float]) -> None:
        self._exact = exact
        self._semantic = semantic
        self._now = now

    async def exactly(self, key: CacheKey, max_age_s: float | None) -> CacheLookup:
        """Look for the key's own answer, no older than the client takes."""
        try:
            entry = await self._exact.get(key) if self._exact is not None else None
        except CacheUnavailableError as error:
            log.warning("cache unavailable: %s", error.message)
            return _DOWN
        if entry is None:
            return NOT_EXACT
        return self._young_enough(CacheLookup("hit", "exact", 1.0, None, entry, entry_id=key.entry_id), max_age_s)

    async def by_meaning(self, key: CacheKey, max_age_s: float | None) -> CacheLookup:
        """Look for an answer of the same meaning, no older than the client takes."""
        if self._semantic is None or not key.semantic:
            return NOT_EXACT
        try:
            return await self._semantic.lookup(key, 0.0 if max_age_s is None else self._now() - max_age_s)
        except CacheUnavailableError as error:
            log.warning("cache unavailable: %s", error.message)
            return _DOWN

    async def write(self, key: CacheKey, completion: Completion, tier: str, tenant: str, found: CacheLookup) -> None:
        """Store an answer with the embedding that the lookup has made, or one made now where none was looked up."""
        if self._exact is None:
            return
        entry = CacheEntry(key.text, completion, tier, tenant, self._now())
        embedding = found.embedding
        if embedding is None and self._semantic is not None and key.semantic and found is not _DOWN:
            try:
                embedding = await self._semantic.embedding(key.text)
            except CacheUnavailableError as error:
                log.warning("an answer is cached without its vector: %s", error.message)
        try:
            await self._exact.put(key, entry, embedding)
        except CacheUnavailableError as error:
            log.warning("an answer was not cached: %s", error.message)

    def _young_enough(self, found: CacheLookup, max_age_s: float | None) -> CacheLookup:
        if max_age_s is None or found.entry is None or self._now() - found.entry.created <= max_age_s:
            return found
        return CacheLookup("miss", TOO_OLD, found.similarity, found.evidence, None, found.embedding)
