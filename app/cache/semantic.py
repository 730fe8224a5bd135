"""The semantic cache: embed the text, ask Redis for its neighbours, judge them, serve the best or none."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from app.cache.calibration import BUNDLED, Calibration
from app.cache.decision import Candidate, evidence, screen, settled
from app.cache.store import RedisStore
from app.cache.verifier import VerifierConfig
from app.embedding import EmbedderConfig
from app.errors import ConfigError
from app.schema import CacheEntry, CacheKey, CacheLookup, Embedding
from app.section import Section


class CacheConfig(Section):
    """What is cached, for how long, and what may be served.

    Attributes:
        floor: Cosine below which a stored text is no candidate.
        candidates: Neighbours that the rules look at.
        verified: Of those the rules do not refuse, how many the verifier reads.
        calibration: The file of `tierwise calibrate cache`, whose threshold is used; or `bundled`.
        threshold: The evidence that makes a hit, in place of the calibrated one: without its bound.
        max_temperature: A request above it asks for variety and bypasses the cache.
        tool_calls: Whether an answer that calls tools is kept too; a replay has call ids of its own.
        uncacheable: Regular expressions of prompts that must not be cached, beside the built-in ones.
    """

    floor: Annotated[float, Field(ge=0, le=1)] = 0.6
    candidates: PositiveInt = 8
    verified: PositiveInt = 3
    calibration: str = "bundled"
    threshold: Annotated[float, Field(ge=0, le=2)] | None = None
    ttl_s: PositiveInt = 24 * 3600
    max_temperature: NonNegativeFloat = 1.0
    tool_calls: bool = False
    uncacheable: tuple[re.Pattern[str], ...] = ()
    embedder: EmbedderConfig = EmbedderConfig()
    verifier: VerifierConfig = VerifierConfig()

    def threshold_for(self, models: str) -> float:
        """Return the threshold in force.

        Args:
            models: Name of the encoder and the verifier that are loaded, as `model_names` gives it.

        Raises:
            ConfigError: The calibration cannot be read, or was made with other models.
        """
        if self.threshold is not None:
            return self.threshold
        file = BUNDLED if self.calibration == "bundled" else Path(self.calibration).expanduser()
        calibration = Calibration.load(file)
        if calibration.models != models:
            raise ConfigError(
                f"cache.calibration: `{file}` was made with the models {calibration.models}, not {models}; "
                "run `tierwise calibrate cache` again"
            )
        return calibration.threshold


def model_names(embedder: str, verifier: str) -> str:
    """Name an encoder and a verifier together: what was calibrated with one pair does not hold for another."""
    return f"{embedder}/{verifier}"


class RedisSemanticCache:
    """A SemanticCache over a RedisStore.

    Args:
        embed: Gives the vector of a text, `(dim,)` of L2 norm 1; batched by the replica that holds the model.
        verify: Gives the probability that one answer serves both texts of a pair, stored text first.
        space: The embedder's name of its vectors.
        threshold: The evidence from which a candidate is served.
    """

    def __init__(
        self,
        config: CacheConfig,
        store: RedisStore,
        embed: Callable[[str], Awaitable[NDArray[np.float32]]],
        verify: Callable[[Sequence[tuple[str, str]]], Awaitable[NDArray[np.float32]]],
        space: str,
        threshold: float,
    ) -> None:
        self._config = config
        self._store = store
        self._embed = embed
        self._verify = verify
        self._space = space
        self._threshold = threshold

    async def lookup(self, key: CacheKey) -> CacheLookup:
        """Decide whether a stored answer of the key's scope answers its text.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        vector = await self._embed(key.text)
        embedding = Embedding(self._space, vector.astype("<f4").tobytes())
        nearest = await self._store.nearest(key, embedding, self._config.candidates)
        similarity = nearest[0].similarity if nearest else None
        near = [candidate for candidate in nearest if candidate.similarity >= self._config.floor]
        fetched = await self._store.fetch(key, near, embedding)
        found = [(candidate, entry) for candidate, entry in zip(near, fetched, strict=True) if entry is not None]

        screening = screen(key.text, [entry.text for _, entry in found])
        if screening.same is not None:
            return _hit(key, "surface", None, *found[screening.same], embedding)
        strongest: float | None = None
        for i in screening.grey[: self._config.verified]:
            candidate, entry = found[i]
            sure = settled(candidate.similarity, self._threshold)
            if sure:
                return _hit(key, "similar", None, candidate, entry, embedding)
            if sure is False:
                break  # nor do those further away
            (probability,) = await self._verify([(entry.text, key.text)])
            weight = evidence(candidate.similarity, float(probability))
            if weight >= self._threshold:
                return _hit(key, "verified", weight, candidate, entry, embedding)
            strongest = weight if strongest is None else max(weight, strongest)
        reason = "unverified" if strongest is not None else "below threshold" if screening.grey else screening.refused
        return CacheLookup("miss", reason or "no candidate", similarity, strongest, None, embedding)


def _hit(
    key: CacheKey, reason: str, weight: float | None, candidate: Candidate, entry: CacheEntry, embedding: Embedding
) -> CacheLookup:
    entry_id = f"{key.scope}.{candidate.entry}"
    return CacheLookup("hit", reason, candidate.similarity, weight, entry, embedding, entry_id)
