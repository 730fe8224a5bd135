"""Checks a share of the requests routed down against the best tier's answer, off the path."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from app.background import Background
from app.cache.agreement import answer_text, settled_answers
from app.cache.audit import Fresh, Judge, Verdict
from app.errors import GatewayError
from app.quality.bound import Kept
from app.quality.judge import Preference
from app.schema import ChatRequest, Completion
from app.section import Section
from app.shaping.schema import structured

log = logging.getLogger(__name__)


class QualityConfig(Section):
    """How the quality kept is watched while the gateway runs.

    Attributes:
        share: Of the routed requests, how many the best tier answers as well, in the background and at its price. Those
            count whose tier the score and the cut points of all decided: no floor, ceiling, budget or `cuts` of a
            tenant, no profile, no conversation.
        kept: Share of routed requests whose answer is to be as good as the best tier's; by default what the router's
            calibration promised, else what the classifier's card says that 0.3 and 0.7 keep (the bundled one: 0.9), for
            three tiers cut there, else 0.95.
        confidence: Of the interval whose end must not pass it.
        judge: A tier or model that compares answers in free text, in both orders; null keeps the pairs for people, at
            `GET /v1/quality/pairs`.
        max_usd_per_day: Beyond it nothing is checked until the next day (UTC), nor while nobody knows what was spent.
        max_pairs: Pairs that wait for people, for a week at most; beyond it only answers that are compared for equality
            are checked.
        concurrency: Checks under way at once in a replica.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.01
    kept: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    judge: str | None = None
    max_usd_per_day: NonNegativeFloat = 5.0
    max_pairs: NonNegativeInt = 100
    concurrency: PositiveInt = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one request that a person is to compare.

    Attributes:
        messages: Of the request.
        tier: Whose answer stands beside the best tier's.
        routed: What that tier said, and
        best: the best one.
        created: Unix time.
        steps: Of the cut points when it was drawn.
    """

    id: str
    messages: Sequence[Mapping[str, object]]
    tier: str
    routed: str
    best: str
    created: float
    steps: Mapping[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, object]:
        """Show it blind: which answer comes first hangs on the id alone."""
        first, second = (self.best, self.routed) if self._best_first() else (self.routed, self.best)
        return {"id": self.id, "messages": self.messages, "first": first, "second": second, "created": self.created}

    def as_good(self, better: Preference) -> bool:
        """Whether the routed answer serves as well, by a person's word on what was shown."""
        return better != ("first" if self._best_first() else "second")

    def _best_first(self) -> bool:
        return hashlib.sha256(self.id.encode()).digest()[0] % 2 == 0


@dataclass(frozen=True, slots=True)
class Watch:
    """Where the checks stand: what is known, dollars spent today, and pairs that wait for people."""

    kept: Kept = field(default_factory=Kept)
    spent_usd: float = 0.0
    waiting: int = 0

    def shown(self, promised: float, confidence: float) -> dict[str, object]:
        """Say it in the words of `GET /v1/quality`.

        Args:
            promised: The share of routed requests whose answer is to be as good as the best tier's.
        """
        tiers = {}
        for name, tally in self.kept.tallies.items():
            low, high = tally.interval(confidence)
            share = 1 - tally.wrong / max(tally.checked, 1)
            counts = {"checked": tally.checked, "worse": tally.wrong, "steps": self.kept.steps.get(name, 0)}
            tiers[name] = {"estimate": share, "lower": 1 - high, "upper": 1 - low, **counts}
        low, high = self.kept.interval(confidence)
        return {
            "promised": promised,
            "kept": {"estimate": self.kept.estimate(), "lower": low, "upper": high},
            "tiers": tiers,
            "drawn": self.kept.drawn,
            "routed_down": self.kept.down,
            "spent_today_usd": round(self.spent_usd, 6),
            "waiting": self.waiting,
        }


class QualityBounds(Protocol):
    """Counts checks for all replicas, and keeps the steps of the cut points. `app/quality/store.py` has it in Redis.

    What is awaited raises CacheUnavailableError where the store does not answer.
    """

    def now(self) -> Watch:
        """Return where it stands, at most seconds old, without waiting."""
        ...

    async def read(self) -> Watch:
        """Return where it stands."""
        ...

    async def draw(self, down: bool) -> None:
        """Count a routed request that was drawn; `down`: a cheaper tier answered it."""
        ...

    async def add(
        self, tier: str, as_good: bool, drawn_at: Mapping[str, int]
    ) -> tuple[Kept | None, tuple[str, int] | None]:
        """Count a check and make the move that it calls for.

        Args:
            drawn_at: The steps of the cut points when it was drawn. At others it says nothing of the present ones.

        Returns:
            What is known then, None if it was not counted; and the move.
        """
        ...

    async def spend(self, cost_usd: float) -> None:
        """Count what a check cost."""
        ...

    async def keep(self, pair: Pair) -> None:
        """Keep a pair for people."""
        ...

    async def pairs(self) -> list[Pair]:
        """Return the pairs that wait, oldest first; those drawn before a cut point moved are no more."""
        ...

    async def take(self, pair_id: str) -> Pair | None:
        """Remove a pair and return it; None if there is none of that id."""
        ...


@dataclass(frozen=True, slots=True)
class QualityCheck:
    """One check.

    Attributes:
        tier: That answered.
        as_good: Whether its answer serves as well as the best tier's; None where that could not be told, or not yet.
        cost_usd: Of the best tier's answer and the judge.
        kept: What is known since; None where nothing was counted.
        moved: The tier whose cut point moved, and by how many steps.
        tenant: Whose request it was; empty for a person's word on a pair.
    """

    tier: str
    as_good: bool | None
    cost_usd: float
    kept: Kept | None
    moved: tuple[str, int] | None = None
    tenant: str = ""


class QualityAuditor:
    """Draws what is checked and checks it in tasks of its own.

    Args:
        best: The best tier's name.
        ask: Answers a request by the best tier.
        judge: Says whether the first answer serves as well as the second; None keeps the pairs for people.
        on_check: Called with every check.
        draw: Uniform in [0, 1).
    """

    def __init__(
        self,
        config: QualityConfig,
        bounds: QualityBounds,
        best: str,
        ask: Callable[[ChatRequest], Awaitable[Fresh]],
        judge: Judge | None = None,
        on_check: Callable[[QualityCheck], None] = lambda check: None,
        draw: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.bounds = bounds
        self._config = config
        self._best = best
        self._ask = ask
        self._judge = judge
        self._on_check = on_check
        self._draw = draw
        self._now = now
        self._checks = Background()

    def answered(self, request: ChatRequest, tier: str, completion: Completion) -> None:
        """Take note of a routed answer; one in `1/share` is drawn, and checked if a cheaper tier gave it."""
        if self._draw() >= self._config.share:
            return
        free = len(self._checks) < self._config.concurrency
        self._checks.start(self._guarded(self._drawn(request, tier, completion, free)))

    async def label(self, pair_id: str, better: Preference) -> bool:
        """Count a person's word on a pair; False if there is none of that id."""
        pair = await self.bounds.take(pair_id)
        if pair is None:
            return False
        await self._count(pair.tier, Verdict(pair.as_good(better)), pair.steps)
        return True

    async def drain(self) -> None:
        """Wait for the checks under way."""
        await self._checks.drain()

    async def _guarded(self, check: Awaitable[None]) -> None:
        try:
            await check
        except GatewayError as error:
            log.warning("a routed answer could not be checked: %s", type(error).__name__)  # it may quote the request

    async def _drawn(self, request: ChatRequest, tier: str, routed: Completion, free: bool) -> None:
        await self.bounds.draw(tier != self._best)
        if tier == self._best or not free:
            return
        watch = await self.bounds.read()  # what was read last may be of before Redis went down
        told = self._judge is not None or _by_equality(request, routed)
        for_people = request.store and watch.waiting < self._config.max_pairs
        if (told or for_people) and watch.spent_usd < self._config.max_usd_per_day:
            await self._check(request, tier, routed, watch.kept.steps)

    async def _check(self, request: ChatRequest, tier: str, routed: Completion, steps: Mapping[str, int]) -> None:
        best = await self._ask(request)
        await self.bounds.spend(best.cost_usd)  # before the judge, who takes its time
        verdict = Verdict(settled_answers(request.body, routed.body, best.completion.body))
        if verdict.correct is None and self._judge is not None:
            verdict = await self._judge(request, routed, best.completion)
            await self.bounds.spend(verdict.cost_usd)
        elif verdict.correct is None:
            await self.bounds.keep(self._pair(request, tier, routed, best.completion, steps))
        cost_usd = best.cost_usd + verdict.cost_usd
        await self._count(tier, Verdict(verdict.correct, cost_usd), steps, request.tenant)

    def _pair(
        self, request: ChatRequest, tier: str, routed: Completion, best: Completion, steps: Mapping[str, int]
    ) -> Pair:
        name = hashlib.blake2b(
            f"{request.tenant} {request.request_id} {self._now()}".encode(), digest_size=8
        ).hexdigest()
        texts = (answer_text(routed.body), answer_text(best.body))
        return Pair(name, request.body["messages"], tier, *texts, self._now(), steps)

    async def _count(self, tier: str, verdict: Verdict, drawn_at: Mapping[str, int], tenant: str = "") -> None:
        if verdict.correct is None:
            self._on_check(QualityCheck(tier, None, verdict.cost_usd, None, None, tenant))
            return
        kept, moved = await self.bounds.add(tier, verdict.correct, drawn_at)
        self._on_check(QualityCheck(tier, verdict.correct, verdict.cost_usd, kept, moved, tenant))


def _by_equality(request: ChatRequest, routed: Completion) -> bool:
    """Whether no judge is needed to compare an answer with another, whatever that one says."""
    return structured(request.body) or bool(routed.body["choices"][0]["message"].get("tool_calls"))
