"""The semantic cache: embed the text, ask Redis for its neighbours, judge them, serve the best or none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from app.cache.agreement import UNLIKE, alike, told_apart
from app.cache.audit import AuditConfig
from app.cache.bound import STEP
from app.cache.calibration import BUNDLED, Calibration
from app.cache.decision import LONGEST_VERIFIED, Candidate, evidence, screen, settled
from app.cache.store import Limits
from app.cache.verifier import VerifierConfig
from app.embedding import EmbedderConfig, EmbeddingsConfig, OnnxEmbedderConfig
from app.errors import ConfigError
from app.schema import TOO_OLD, CacheEntry, CacheKey, CacheLookup, Embedding
from app.section import Section


class TenantLimits(Section):
    """What a tenant has in place of the general limits; null leaves that one.

    Attributes:
        ttl_s: How long an answer is kept.
        max_entries: Answers kept in one scope.
    """

    ttl_s: PositiveInt | None = None
    max_entries: PositiveInt | None = None


class CacheConfig(Section):
    """What is cached, for how long, and what may be served.

    Attributes:
        floor: Cosine below which a stored text is no candidate.
        candidates: Neighbours that the rules look at.
        verified: Of those the rules do not refuse, how many the verifier reads.
        calibration: The file of `tierwise calibrate cache`, whose threshold is used; or `bundled`.
        threshold: The evidence that makes a hit, in place of the calibrated one: without its bound.
        ttl_s: How long an answer is kept.
        max_entries: Answers kept in one scope; past it the least recently used goes.
        tenants: Limits of some tenants' own.
        sweep_s: How often what has expired is looked for.
        max_temperature: A request above it asks for variety and bypasses the cache.
        tool_calls: Whether an answer that calls tools is kept too; a replay has call ids of its own.
        uncacheable: Regular expressions of prompts that must not be cached, beside the built-in ones.
        audit: How the share of wrong hits is kept under its limit.
        coalesce: Whether identical requests in flight share one call.
        embeddings: What `POST /v1/embeddings` takes.
        embedder: What makes the vectors that are searched.
        verifier: What reads two texts that are alike.
    """

    floor: Annotated[float, Field(ge=0, le=1)] = 0.6
    candidates: PositiveInt = 8
    verified: PositiveInt = 3
    calibration: str = "bundled"
    threshold: Annotated[float, Field(ge=0, le=2)] | None = None
    ttl_s: PositiveInt = Limits().ttl_s
    max_entries: PositiveInt = Limits().max_entries
    tenants: Mapping[str, TenantLimits] = {}
    sweep_s: PositiveFloat = 60
    max_temperature: NonNegativeFloat = 1.0
    tool_calls: bool = False
    uncacheable: tuple[re.Pattern[str], ...] = ()
    audit: AuditConfig = AuditConfig()
    coalesce: bool = True
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    embedder: EmbedderConfig = OnnxEmbedderConfig()
    verifier: VerifierConfig = VerifierConfig()

    def limits(self, tenant: str) -> Limits:
        """Return how long a tenant's answers are kept, and how many in a scope."""
        own = self.tenants.get(tenant, TenantLimits())
        return Limits(own.ttl_s or self.ttl_s, own.max_entries or self.max_entries)

    def threshold_for(self, models: str) -> float:
        """Return the threshold in force.

        Args:
            models: Name of the encoder and the verifier that are loaded, as `model_names` gives it.

        Raises:
            ConfigError: The calibration cannot be read, or was made with other models.
        """
        if self.threshold is not None:
            return self.threshold
        calibration = self.calibrated()
        if calibration.models != models:
            raise ConfigError(
                f"cache.calibration: `{self.calibration}` was made with the models {calibration.models}, not {models}; "
                "run `tierwise calibrate cache` again"
            )
        return calibration.threshold

    def max_error_rate(self) -> float:
        """Return the limit of wrong hits as a share of hits: the audit's own, or what the calibration was made for.

        Raises:
            ConfigError: The calibration cannot be read.
        """
        return self.audit.max_error_rate or self.calibrated().max_error_rate

    def calibrated(self) -> Calibration:
        """Return the calibration that the threshold comes from, unless one is given.

        Raises:
            ConfigError: It cannot be read.
        """
        return Calibration.load(self.calibration_file())

    def calibration_file(self) -> Path:
        """Return where the calibration is, or is to be."""
        return BUNDLED if self.calibration == "bundled" else Path(self.calibration).expanduser()


def model_names(embedder: str, verifier: str) -> str:
    """Name an encoder and a verifier together: what was calibrated with one pair does not hold for another."""
    return f"{embedder}/{verifier}"


class EntryStore(Protocol):
    """What the semantic cache asks of a store: RedisStore, or that of a replay in memory. See RedisStore."""

    async def nearest(self, key: CacheKey, embedding: Embedding, count: int) -> list[Candidate]:
        """Return up to `count` candidates of the key's scope by falling cosine."""
        ...

    async def fetch(self, key: CacheKey, candidates: Sequence[Candidate]) -> list[CacheEntry | None]:
        """Return the entries of candidates, None for one that has expired."""
        ...

    def touch(self, scope: str, entry: str) -> None:
        """Note that an entry was used."""
        ...


class RedisSemanticCache:
    """A SemanticCache over a RedisStore.

    Args:
        embed: Gives the vector of a text, `(dim,)` of L2 norm 1; batched by the replica that holds the model.
        verify: Gives the probability that one answer serves both texts of a pair, stored text first.
        space: Names the encoder and the verifier; entries stored with others are not found by meaning.
        threshold: The evidence from which a candidate is served,
        steps: and the steps by which a scope's differs from it.
    """

    def __init__(
        self,
        config: CacheConfig,
        store: EntryStore,
        embed: Callable[[str], Awaitable[NDArray[np.float32]]],
        verify: Callable[[Sequence[tuple[str, str]]], Awaitable[NDArray[np.float32]]],
        space: str,
        threshold: float,
        steps: Callable[[str], int] = lambda scope: 0,
    ) -> None:
        self._config = config
        self._store = store
        self._embed = embed
        self._verify = verify
        self._space = space
        self._threshold = threshold
        self._steps = steps

    async def lookup(self, key: CacheKey, since: float = 0.0) -> CacheLookup:
        """Decide whether a stored answer of the key's scope answers its text.

        Args:
            since: Seconds since the epoch; answers stored before are as if they were not there.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        embedding = await self.embedding(key.text)
        nearest = await self._store.nearest(key, embedding, self._config.candidates)
        similarity = nearest[0].similarity if nearest else None
        near = [candidate for candidate in nearest if candidate.similarity >= self._config.floor]
        fetched = await self._store.fetch(key, near)
        kept = [(candidate, entry) for candidate, entry in zip(near, fetched, strict=True) if entry is not None]
        found = [(candidate, entry) for candidate, entry in kept if entry.created >= since]

        screening = screen(key.text, [entry.text for _, entry in found])
        if screening.same is not None:
            return self._hit(key, "surface", None, *found[screening.same], embedding)
        threshold = self._threshold + STEP * self._steps(key.scope)
        strongest: tuple[float, CacheEntry] | None = None
        for i in screening.grey[: self._config.verified]:
            candidate, entry = found[i]
            sure = settled(candidate.similarity, threshold)
            if sure:
                return self._hit(key, "similar", None, candidate, entry, embedding)
            if sure is False:
                break  # nor do those further away
            (probability,) = await self._verify([(entry.text, key.text)])
            weight = evidence(candidate.similarity, float(probability))
            if weight >= threshold:
                return self._hit(key, "verified", weight, candidate, entry, embedding)
            if strongest is None or weight > strongest[0]:
                strongest = weight, entry
        if strongest is None:
            reason = "below threshold" if screening.grey else screening.refused
            reason = reason or (TOO_OLD if len(found) < len(kept) else "no candidate")
            return CacheLookup("miss", reason, similarity, None, None, embedding)
        weight, entry = strongest
        within_a_step = entry if weight >= threshold - STEP else None
        return CacheLookup("miss", "unverified", similarity, weight, None, embedding, None, within_a_step)

    async def embedding(self, text: str) -> Embedding:
        """Embed a text, to store its answer where no lookup has."""
        vector = await self._embed(text)
        return Embedding(self._space, vector.astype("<f4").tobytes())

    async def agree(self, a: str, b: str) -> bool | None:
        """Whether two answers in free text say the same: what rules can see, else the evidence of both models.

        Returns:
            None where they are neither alike enough nor unlike enough, or alike but longer than the verifier reads.
        """
        if told_apart(a, b):
            return False
        first, second = await asyncio.gather(self._embed(a), self._embed(b))
        similarity = float(first @ second)
        if max(len(a), len(b)) > LONGEST_VERIFIED:
            return None if similarity >= UNLIKE else False
        (probability,) = await self._verify([(a, b)])
        return alike(evidence(similarity, float(probability)))

    def _hit(
        self,
        key: CacheKey,
        reason: str,
        weight: float | None,
        candidate: Candidate,
        entry: CacheEntry,
        embedding: Embedding,
    ) -> CacheLookup:
        self._store.touch(key.scope, candidate.entry)
        served = replace(key, entry=candidate.entry)
        return CacheLookup("hit", reason, candidate.similarity, weight, entry, embedding, served.entry_id)
