"""Router: what a request's route hangs on beside the request itself, gathered for the pure functions of routing.py."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from app.background import Background
from app.config import GatewayConfig
from app.conversations import begun, continued
from app.errors import CacheUnavailableError, ClassifierUnavailableError
from app.protocols import ComplexityClassifier, Conversations
from app.quality.audit import QualityBounds
from app.quality.bound import moved
from app.routing import (
    ANYWHERE,
    SCORED,
    Needs,
    Route,
    TierBounds,
    TierConfig,
    Tiers,
    affordable,
    awake,
    cut_points,
    needs_of,
    pinned,
    route,
    unsupported,
)
from app.schema import ChatRequest, Completion
from app.top_share import TopShare

log = logging.getLogger(__name__)


class Router:
    """Finds each request's tiers.

    Args:
        classifier: Scores the prompts that no model is named for.
        conversations: Remembers the tier that each has reached; None lets every turn stand for itself.
        quality: Says how far cut points have moved; None leaves them where they are.
        wake: Says whether a tier runs, and wakes one that does not.
    """

    def __init__(
        self,
        config: GatewayConfig,
        classifier: ComplexityClassifier,
        conversations: Conversations | None,
        quality: QualityBounds | None,
        wake: Callable[[str], bool],
    ) -> None:
        self._wake = wake
        self._auto_models = config.auto_models
        self._routing = config.routing
        self._tiers = config.routable_tiers()
        self._narrowest = min(self._tiers, key=TierConfig.window)
        self._classifier = classifier
        self._conversations = conversations
        self._quality = quality
        share = config.routing.top_share
        self._top_share = None if share is None else TopShare(share, cut_points(self._tiers)[-1])
        self._notes = Background()

    def candidates(self, request: ChatRequest) -> Tiers:
        """Return all tiers that the request may reach.

        Raises:
            ModelNotFoundError: It names a model that is not there, or not for its tenant.
        """
        tiers = self._bounds(request).permitted(self._tiers)
        return tiers if request.model in self._auto_models else (pinned(request.model, tiers),)

    async def route(self, request: ChatRequest) -> Route:
        """Decide where a request goes. A classifier that is down costs the best tier.

        Raises:
            InvalidRequestError: No tier that the tenant may use takes what the request needs.
            BudgetExceededError: The tenant's budget is spent, or leaves it no model of that price.
        """
        left = affordable(request.allowance, self._tiers)
        needs = needs_of(request.body, self._narrowest, request.tiers)
        if request.model not in self._auto_models:
            (tier,) = self.candidates(request)
            if request.allowance is not None and tier not in left:
                raise request.allowance.refusal
            if needs.abilities - tier.takes():
                raise unsupported(needs, tier, self._bounds(request).permitted(self._tiers))
            return Route((tier,), None, "pinned")
        score = None
        try:
            score = await self._classifier.score(request.prompt)
        except ClassifierUnavailableError as error:
            log.warning("classifier unavailable, asking the best tier: %s", error.message)
        held = await self._held(request)
        return awake(self._decided(request, score, needs, held), self._wake)

    def scored(self, request: ChatRequest, found: Route) -> bool:
        """Whether the score and the cut points of all decided: what such routes turn out to be worth may move those."""
        return found.reason in SCORED and self._bounds(request).cuts is None

    def answered(self, request: ChatRequest, answer: Completion, tier: str) -> None:
        """Remember, off the path, the tier that the conversation has reached."""
        if self._conversations is not None and answer.body.get("choices"):
            self._notes.start(self._remember(self._conversations, request, answer.body["choices"][0]["message"], tier))

    async def drain(self) -> None:
        """Wait for what is being remembered."""
        await self._notes.drain()

    def _bounds(self, request: ChatRequest) -> TierBounds:
        return self._routing.tenants.get(request.tenant, ANYWHERE)

    def _decided(self, request: ChatRequest, score: float | None, needs: Needs, held: str | None) -> Route:
        bounds = self._bounds(request)
        margin = self._routing.cascade.margin_for(request.tenant)
        found = route(score, needs, self._tiers, self._cuts(bounds), bounds, held, margin, request.allowance)
        best = self._tiers[-1]
        if self._top_share is not None and bounds.cuts is None and score is not None and found.tiers[-1] is best:
            self._top_share.add(score, forced=found.tiers[0] is best and found.reason not in SCORED)
        return found

    def _cuts(self, bounds: TierBounds) -> list[tuple[str, tuple[float, ...]]]:
        """Return the cut points as configured, then as the top share and the checks of quality move them."""
        points = bounds.cuts or cut_points(self._tiers)
        cuts = [("score", points)]
        if self._top_share is not None and bounds.cuts is None:
            points = self._top_share.moved(points)
            cuts.append(("share", points))
        if self._quality is not None and (steps := self._quality.now().kept.steps):
            cuts.append(("quality", moved(points, tuple(tier.name for tier in self._tiers[:-1]), steps)))
        return cuts

    async def _held(self, request: ChatRequest) -> str | None:
        """Return the tier that the conversation has reached. Redis down costs the memory of it."""
        name = begun(request.body["messages"], request.tenant)
        if name is None or self._conversations is None:
            return None
        try:
            return self._best(await self._conversations.tiers(name))
        except CacheUnavailableError as error:
            log.warning("the conversation's tier is not known: %s", error.message)
            return None

    async def _remember(
        self, conversations: Conversations, request: ChatRequest, message: Mapping[str, Any], tier: str
    ) -> None:
        held = await self._held(request)
        reached = self._best((tier, held))
        if reached is None:
            return
        try:
            await conversations.remember(continued(request.body["messages"], message, request.tenant), reached)
        except CacheUnavailableError as error:
            log.warning("the conversation's tier was not noted: %s", error.message)

    def _best(self, names: Collection[str | None]) -> str | None:
        """Return the best of the tiers of these names; None if there is none of them any more."""
        return next((tier.name for tier in reversed(self._tiers) if tier.name in names), None)
