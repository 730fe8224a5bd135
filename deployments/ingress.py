"""The ingress: the controller over handles, served by `build_api`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from app.admission import Admission
from app.api import build_api
from app.api_ledger import UNKEPT, Books
from app.background import Background
from app.cache.admin import CacheAdmin
from app.cache.audit import Audit
from app.cache.bounds import CANARY, EVERYWHERE, RedisBounds
from app.cache.store import RedisStore
from app.canary import Arm
from app.config import GatewayConfig
from app.controller import TrafficController
from app.conversations import RedisConversations
from app.dashboard import Dashboard
from app.errors import CacheUnavailableError, GatewayError
from app.ledger.budgets import Budgets
from app.ledger.record import audited
from app.ledger.store import RedisLedger
from app.ledger.writer import LedgerWriter
from app.quality.audit import QualityCheck
from app.quality.store import RedisQuality
from app.schema import Outcome, PartStatus
from app.shaping.tokens import count_tokens
from deployments.handles import RemoteCache, RemoteClassifier, RemoteProvider, ask_status
from deployments.reloading import Reloading
from deployments.request_log import RequestLog
from deployments.telemetry import Telemetry, prometheus
from deployments.tracing import describe, describe_error
from deployments.wordless import log_without_words

log = logging.getLogger("ray.serve")
_Close = Callable[[], Awaitable[None]]
_DRAIN_S = 5.0  # for checks and writes off the path, before a replica ends


def _leaving_the_id(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Leave out the id of the request: Serve adds the same to all that is sent."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [header for header in message["headers"] if header[0] != b"x-request-id"]
        await send(message)

    return sent


async def _live(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]], close: _Close) -> None:
    """Take ASGI's messages of the replica's start and of its end, at which `close` is awaited."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await close()
    await send({"type": "lifespan.shutdown.complete"})


class Ingress:
    """One replica of the gateway's front.

    Args:
        config: What it holds from its start: Redis and the ledger. The rest comes by `reconfigure`.
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
        log_without_words()
        self._cache = cache
        self._classifier = classifier
        self._tiers = tiers
        self._config = config
        self._store = config.redis.build(lambda tenant: self._config.cache.limits(tenant)) if config.redis else None
        count_tokens("")  # loads the vocabulary before a request waits for it
        self._telemetry = Telemetry()
        kept = config.ledger
        self._ledger = RedisLedger(self._store, kept) if self._store and kept.enabled else None
        self._writer: LedgerWriter | None = None
        if self._ledger is not None:
            self._writer = LedgerWriter(self._ledger, kept.texts, kept.max_pending, self._telemetry.record_dropped)
        self._log: RequestLog | None = None
        self._shown: RedisStore | None = None
        self._replaced = Background()
        self._reloading = Reloading()
        self._controllers: list[TrafficController] = []
        self._api: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> Callable[[Any, Any, Any], Awaitable[None]]:
        async def current(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":  # of the replica, which outlives its APIs
                await _live(receive, send, self.close)
                return
            assert self._api is not None  # Serve calls `reconfigure` before it sends requests
            await self._api(scope, receive, _leaving_the_id(send))

        return current

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Answer by this configuration from now on, as `Reloading` says.

        Requests under way end by the configuration that they began with.
        """
        with self._reloading.taking(user_config):
            config = GatewayConfig.model_validate(user_config["args"])
            if self._api is None or config != self._config:
                self._take(config)

    def _take(self, config: GatewayConfig) -> None:
        """Build what a configuration says, and make it the one in force."""
        tenants = config.tenants.build()
        second, admission = config.canary_config(), Admission(config.overload)
        controller = self._controlling(config, admission)
        canary = self._controlling(second, admission, canary=True) if second else None
        api = build_api(
            controller,
            config,
            tenants,
            self.parts,
            prometheus,
            self.record_error,
            self._telemetry.record_feedback,
            CacheAdmin(self._store) if self._store else None,
            RemoteCache(self._cache) if self._cache else None,
            self._books(config),
            self._dashboard(config, watched=controller.quality is not None),
            canary,
        )
        # nothing fails from here on
        self._telemetry.confide(config.cache.audit.confidence, config.routing.quality.confidence)
        self._log = RequestLog() if config.log_requests else None
        self._config, self._stand_ins, self._tenants = config, config.stand_ins(), tenants
        for replaced in self._controllers:
            self._replaced.start(replaced.drain())
        self._controllers, self._api = [controller, *([canary] if canary else [])], api

    def _controlling(self, config: GatewayConfig, admission: Admission, canary: bool = False) -> TrafficController:
        """Build the controller of a configuration. A canary's cut points stay where it has them: nobody checks them."""
        arm: Arm = "canary" if canary else "stable" if config.canary else ""
        store = self._store.limited(config.cache.limits) if self._store and canary else self._store
        providers = {
            name: RemoteProvider(handle, name, config.timeout_s(name), config.server_of(name).providers())
            for name, handle in self._tiers.items()
        }
        return TrafficController(
            config,
            store,
            RemoteCache(self._cache, canary) if self._cache else None,
            RemoteClassifier(self._classifier, canary),
            providers,
            self.record,
            bounds=self._bounds(config, CANARY if canary else EVERYWHERE),
            on_audit=partial(self.record_audit, arm),
            relay=store.relay() if store else None,
            conversations=self._conversations(config),
            quality=None if canary else self._quality(config),
            on_check=partial(self.record_check, arm),
            admission=admission,
            wake=lambda tier: providers[tier].wake(),
        )

    def _books(self, config: GatewayConfig) -> Books:
        budgets = Budgets(config.budgets, self._ledger) if self._ledger and config.budgets else None
        return Books(self._ledger, budgets, self.record, self._writer.put if self._writer else UNKEPT.on_refused)

    def _dashboard(self, config: GatewayConfig, *, watched: bool) -> Dashboard | None:
        """Build the dashboard over a client of its own: a slow answer to it leaves the path of requests alone."""
        if self._shown is None and config.redis is not None and config.ledger.enabled:
            self._shown = config.redis.model_copy(update={"timeout_s": max(config.redis.timeout_s, 2.0)}).build()
        return Dashboard(config, self._shown, watched=watched) if self._shown else None

    def _bounds(self, config: GatewayConfig, everywhere: str) -> RedisBounds | None:
        cache = config.cache
        if self._store is None:
            return None
        return RedisBounds(self._store, cache.max_error_rate(), cache.audit.confidence, everywhere)

    def _conversations(self, config: GatewayConfig) -> RedisConversations | None:
        ttl_s = config.routing.conversation_ttl_s
        return RedisConversations(self._store, ttl_s) if self._store and ttl_s else None

    def _quality(self, config: GatewayConfig) -> RedisQuality | None:
        if self._store is None:
            return None
        return RedisQuality(self._store, config.quality_kept(), config.routing.quality.confidence)

    async def check_health(self) -> None:
        """Read the tenants' keys again, and export what the replica alone knows; Serve calls this every ten seconds."""
        self._telemetry.record_tasks(len(asyncio.all_tasks()))
        known = self._tenants  # those of the configuration that the file is read for
        try:
            known.take(await asyncio.to_thread(self._config.tenants.build))
        except GatewayError as error:
            log.error("the tenants' keys stay as they were: %s", error.message)

    def record(self, outcome: Outcome) -> None:
        """Count an answered request, enter it in the ledger and write its line."""
        self._telemetry.record(outcome)
        if self._writer:
            self._writer.add(outcome)
        if self._log:  # once the answer is on its way: a line costs some 30 microseconds
            asyncio.get_running_loop().call_soon(self._log.record, outcome)
        describe(outcome)  # last: the books are to be right whatever a trace makes of it

    def record_error(self, error: GatewayError) -> None:
        """Count a failure that a client saw and write its line."""
        self._telemetry.record_error(error)
        if self._log:
            self._log.record_error(error)
        describe_error(error)

    def record_audit(self, arm: Arm, audit: Audit) -> None:
        """Count a check of a cached answer."""
        # the bound that is exported is that of the stable side
        self._telemetry.record_audit(replace(audit, bound=None) if arm == "canary" else audit)
        if self._writer:
            what = "cached answer" if audit.kind == "hits" else "near miss"
            self._writer.put(audited(time.time(), what, audit.tenant, audit.tier, audit.cost_usd, arm))

    def record_check(self, arm: Arm, check: QualityCheck) -> None:
        """Count a check of a routed answer."""
        self._telemetry.record_check(check)
        if self._writer:
            self._writer.put(audited(time.time(), "routed answer", check.tenant, check.tier, check.cost_usd, arm))

    async def close(self) -> None:
        """End what is under way off the path and write what is left of the ledger."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await asyncio.gather(*(controller.drain() for controller in self._controllers))
        if self._writer:
            await self._writer.close()

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
