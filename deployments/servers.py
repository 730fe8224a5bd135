"""What each replica holds. Plain classes: `graph.py` names, wraps and binds them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from app.cache import CacheConfig, RedisConfig, RedisSemanticCache
from app.cache.admin import CacheAdmin
from app.cache.bounds import CANARY, RedisBounds
from app.cache.semantic import model_names
from app.classifier import ClassifierConfig, EncoderClassifier
from app.config import GatewayConfig
from app.embedding import ServedEmbedder
from app.errors import CacheUnavailableError
from app.ledger.calls import CallCounts
from app.providers.base import Provider, TargetConfig
from app.routing import TierConfig
from app.scaling import Meter
from app.schema import CacheKey, CacheLookup, Completion, Embedding, PartStatus, StreamPart, Vectors
from app.tier import Target, TargetPolicy
from app.tier.limits import RateLimit, limit_storage
from app.tier.shared import SharedBreakers
from deployments.handles import LocalModel
from deployments.reloading import Reloading
from deployments.telemetry import TierTelemetry
from deployments.wordless import log_without_words

log = logging.getLogger("ray.serve")


class CacheServer:
    """The semantic cache: one encoder, one Redis client.

    Args:
        config: What it holds from its start: models, and how often it sweeps. The rest comes by `reconfigure`.
    """

    def __init__(self, config: CacheConfig, redis: RedisConfig) -> None:
        log_without_words()
        self._reloading = Reloading()
        self._config = config
        self._embedder = config.embedder.build()
        self._store = redis.build(lambda tenant: self._config.limits(tenant))
        self._verifier = config.verifier.build()
        self._space = model_names(self._embedder.space, self._verifier.name)
        self._served = ServedEmbedder(self._embedder, config.embeddings.names(config.embedder.model))
        self._sweep_s = config.sweep_s
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Decide by this configuration from now on, as `Reloading` says."""
        with self._reloading.taking(user_config):
            config = GatewayConfig.model_validate(user_config["args"])
            canary = config.canary_config()
            self._take(config.cache, canary.cache if canary else None)

    def _take(self, config: CacheConfig, canary: CacheConfig | None) -> None:
        bounds = RedisBounds(self._store, config.max_error_rate(), config.audit.confidence)
        second = canary or config  # a lookup may still come that was begun before the canary ended
        apart = RedisBounds(self._store, second.max_error_rate(), second.audit.confidence, CANARY)
        self._caches = {False: self._semantic(config, bounds), True: self._semantic(second, apart)}
        self._config, self._bounds, self._threshold = config, bounds, config.threshold_for(self._space)

    def _semantic(self, config: CacheConfig, bounds: RedisBounds) -> RedisSemanticCache:
        threshold = config.threshold_for(self._space)
        return RedisSemanticCache(config, self._store, self._embed, self._verify, self._space, threshold, bounds.steps)

    async def _sweep(self) -> None:
        """Remove what has expired, now and then; the other replicas do so too, and none is in another's way."""
        admin = CacheAdmin(self._store)
        while True:
            await asyncio.sleep(self._sweep_s * random.uniform(0.5, 1.5))
            try:
                await admin.sweep()
            except CacheUnavailableError as error:
                log.warning("the cache was not swept: %s", error.message)

    async def lookup(self, key: CacheKey, canary: bool = False, since: float = 0.0) -> CacheLookup:
        """Decide whether an answer stored since serves the key's text, by the canary's configuration or the other."""
        return await self._caches[canary].lookup(key, since)

    async def embedding(self, text: str) -> Embedding:
        """Embed a text, to store its answer where no lookup has."""
        return await self._caches[False].embedding(text)

    async def agree(self, a: str, b: str) -> bool | None:
        """Whether two answers in free text say the same; None where that cannot be told."""
        return await self._caches[False].agree(a, b)

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
    """The difficulty classifier; and a canary's, where that is another. `reconfigure` loads them."""

    def __init__(self) -> None:
        log_without_words()
        self._reloading = Reloading()
        self._configs: tuple[ClassifierConfig, ClassifierConfig] | None = None
        self._classifiers: tuple[EncoderClassifier, ...] = ()
        self._meter = Meter()

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Score by this configuration from now on, as `Reloading` says."""
        with self._reloading.taking(user_config):
            config = GatewayConfig.model_validate(user_config["args"])
            configs = (config.classifier, (config.canary_config() or config).classifier)
            if configs != self._configs:
                self._classifiers = await asyncio.to_thread(_built, *configs)
                self._configs = configs

    async def score(self, prompt: str, canary: bool) -> float:
        """Score a prompt in [0, 1], by the canary's model or the other."""
        with self._meter.here():
            score: float = await self._score(prompt, canary)
            return score

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator]
    async def _score(self, prompts: list[str], canary: list[bool]) -> list[float]:
        with self._meter.working(len(prompts)):
            scores: dict[int, float] = {}
            for arm, classifier in enumerate(self._classifiers):
                places = [i for i, its in enumerate(canary) if its == bool(arm)]
                if places:
                    found = await asyncio.to_thread(classifier.scores, [prompts[i] for i in places])
                    scores |= zip(places, map(float, found), strict=True)
            return [scores[i] for i in range(len(prompts))]

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve how many prompts wait for a batch, and the share of the time that one was scored."""
        return self._meter.read()

    async def status(self) -> PartStatus:
        """Say that the model is loaded."""
        return PartStatus("classifier", "up", {})


def _built(config: ClassifierConfig, canary: ClassifierConfig) -> tuple[EncoderClassifier, EncoderClassifier]:
    """Build both classifiers; one where they are the same."""
    classifier = config.build()
    return classifier, classifier if canary == config else canary.build()


class TierServer:
    """An API tier: a client for each target, and the policy by which they are asked.

    Args:
        redis: Where replicas tell one another of targets that fail, and count calls and the requests of those with
            limits.
        local: The tier's local model, which is the first of its targets.
    """

    def __init__(
        self, tier: TierConfig, redis: RedisConfig | None = None, local: DeploymentHandle | None = None
    ) -> None:
        log_without_words()
        self._tier = tier
        policy = tier.policy
        storage = limit_storage(redis) if redis else None
        clients: list[tuple[TargetConfig, Provider]] = []
        if tier.llm is not None and local is not None:
            llm = tier.llm
            seen_as = TargetConfig(model=llm.target, weight=llm.weight, timeout_s=llm.timeout_s)
            clients.append((seen_as, LocalModel(local, llm, tier.name, tier.llm_takes())))
        clients += [(target, target.build()) for target in tier.targets if target.available()]
        self._targets = {
            target.label: Target(target, client, policy, RateLimit(target, tier.name, storage))
            for target, client in clients
        }
        self._telemetry = TierTelemetry(tier.name)
        targets = list(self._targets.values())
        keyless = tier.models().keys() - {target.config.model for target in targets}
        self._calls: CallCounts | None = None
        self._policy = TargetPolicy(tier.name, targets, policy, self._record, keyless=keyless)
        if redis is not None:
            store = redis.build()
            self._calls = CallCounts(tier.name, store)
            sharing = SharedBreakers(tier.name, self._targets, store)
            self._sharing = asyncio.get_running_loop().create_task(
                self._share(sharing, self._calls, policy.breaker.share_s)
            )

    def _record(self, target: str, result: str) -> None:
        """Count a call."""
        self._telemetry.record(target, result)
        if self._calls is not None:
            self._calls.record(target, result)

    async def _share(self, sharing: SharedBreakers, calls: CallCounts, pause_s: float) -> None:
        """Tell the other replicas which targets fail, hear from them, and tell what became of calls."""
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            self._telemetry.record_breakers({name: target.breaker.state for name, target in self._targets.items()})
            try:
                await sharing.exchange()
                await calls.tell()
            except CacheUnavailableError as error:
                log.info("breakers and calls are not shared: %s", error.message)

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        """Answer by the first target that can."""
        return await self._policy.complete(body, within_s)

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        """Stream from the first target that sends a chunk."""
        async with aclosing(self._policy.stream(body, within_s)) as parts:
            async for part in parts:
                yield part

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve what share of this minute's limits is used, of the target that has most left."""
        return {"limits_used": min([await target.limits_used() for target in self._targets.values()])}

    async def status(self) -> PartStatus:
        """Say which targets have their keys, and which rest; upstreams are not called, since that would cost."""
        missing = self._tier.missing_keys()
        states = {name: target.breaker.state for name, target in self._targets.items()}
        resting = {name: state for name, state in states.items() if state != "closed"}
        detail: dict[str, Any] = {"targets": list(self._targets)}
        detail |= {"missing": missing} if missing else {}
        detail |= {"breakers": resting} if resting else {}
        able = len(states) > len([state for state in states.values() if state == "open"])
        return PartStatus(f"tier-{self._tier.name}", "up" if able else "down", detail)

    async def aclose(self) -> None:
        """Close the targets' connections."""
        for target in self._targets.values():
            await target.provider.aclose()
