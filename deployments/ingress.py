"""The ingress: the controller over handles, served by `build_api`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from app.api import build_api
from app.cache.admin import CacheAdmin
from app.cache.bounds import RedisBounds
from app.config import GatewayConfig
from app.controller import TrafficController
from app.conversations import RedisConversations
from app.errors import CacheUnavailableError, GatewayError
from app.quality.store import RedisQuality
from app.schema import Outcome, PartStatus
from app.shaping.tokens import count_tokens
from deployments.handles import RemoteCache, RemoteClassifier, RemoteProvider, ask_status
from deployments.request_log import RequestLog
from deployments.telemetry import Telemetry, prometheus


class Ingress:
    """One replica of the gateway's front.

    Args:
        cache: None runs without a cache.
        tiers: A handle for every tier; a stand-in's twice.
    """

    def __init__(
        self,
        config: GatewayConfig,
        cache: DeploymentHandle | None,
        classifier: DeploymentHandle,
        tiers: Mapping[str, DeploymentHandle],
    ) -> None:
        self._config = config
        self._cache = cache
        self._classifier = classifier
        self._tiers = tiers
        self._stand_ins = config.stand_ins()
        self._store = config.redis.build(config.cache.limits) if config.redis else None
        count_tokens("")  # loads the vocabulary before a request waits for it
        self._telemetry = Telemetry(config.cache.audit.confidence, config.routing.quality.confidence)
        self._log = RequestLog() if config.log_requests else None
        self._remote_cache = RemoteCache(cache) if cache else None
        self._controller = TrafficController(
            config,
            self._store,
            self._remote_cache,
            RemoteClassifier(classifier),
            {name: RemoteProvider(handle, name, config.timeout_s(name)) for name, handle in tiers.items()},
            self.record,
            bounds=self._bounds(),
            on_audit=self._telemetry.record_audit,
            relay=self._store.relay() if self._store else None,
            conversations=self._conversations(),
            quality=self._quality(),
            on_check=self._telemetry.record_check,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(
            self._controller,
            self._config,
            self._config.tenants.build(),
            self.parts,
            prometheus,
            self.record_error,
            self._telemetry.record_feedback,
            CacheAdmin(self._store) if self._store else None,
            self._remote_cache,
        )

    def _bounds(self) -> RedisBounds | None:
        cache = self._config.cache
        if self._store is None:
            return None
        return RedisBounds(self._store, cache.max_error_rate(), cache.audit.confidence)

    def _conversations(self) -> RedisConversations | None:
        ttl_s = self._config.routing.conversation_ttl_s
        return RedisConversations(self._store, ttl_s) if self._store and ttl_s else None

    def _quality(self) -> RedisQuality | None:
        config = self._config
        if self._store is None:
            return None
        return RedisQuality(self._store, config.quality_kept(), config.routing.quality.confidence)

    def record(self, outcome: Outcome) -> None:
        """Count an answered request and write its line."""
        self._telemetry.record(outcome)
        if self._log:  # once the answer is on its way: a line costs some 30 microseconds
            asyncio.get_running_loop().call_soon(self._log.record, outcome)

    def record_error(self, error: GatewayError) -> None:
        """Count a failure that a client saw and write its line."""
        self._telemetry.record_error(error)
        if self._log:
            self._log.record_error(error)

    async def parts(self) -> Sequence[PartStatus]:
        """Ask every part for its state."""
        asked = [ask_status(self._classifier, "classifier")]
        asked += [ask_status(handle, f"tier-{name}") for name, handle in self._tiers.items()]
        if self._cache is not None:
            asked += [self._redis_status(), ask_status(self._cache, "cache")]
        return [self._explained(part) for part in await asyncio.gather(*asked)]

    async def _redis_status(self) -> PartStatus:
        assert self._store is not None
        try:
            await self._store.ping()
        except CacheUnavailableError as error:
            return PartStatus("redis", "down", {"reason": error.message})
        return PartStatus("redis", "up", {})

    def _explained(self, part: PartStatus) -> PartStatus:
        """Say of a tier that another answers for it, and why."""
        for tier in self._config.tiers:
            if part.name == f"tier-{tier.name}" and tier.name in self._stand_ins:
                reason = f"{', '.join(tier.missing_keys())} is not set"
                return PartStatus(
                    part.name, part.state, {**part.detail, "stand_in": self._stand_ins[tier.name], "reason": reason}
                )
        return part
