"""The record that a request leaves: pure functions from what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from app.errors import GatewayError
from app.schema import NOBODY, Outcome

STAGES = ("exact", "semantic", "route", "model", "stream", "wait")  # of Outcome.stages
NANO = 10**9
_LONGEST_ID = 128  # clients choose it


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request, or one check that the gateway made for itself.

    Attributes:
        time: Unix time of its end.
        kind: `request`, or `audit` for a check: its cost is on the bill, and it is no request.
        endpoint: Its path: the dialect.
        tier: That answered; `cache` for a hit, `embeddings`, `none` where nobody did.
        cached_tokens: Of the prompt, what the provider had read before.
        cost_usd: To a billionth, so that sums are exact.
        without_usd: The bill at the baseline's price.
        stages: Seconds by stage; together they are `latency_s`.
        cache: `hit`, `miss`, `bypass`, or empty where nothing was decided;
        reason: and the rule that decided.
        route: Why this tier.
        finished: False for an answer that broke off, or that nobody waited for.
        status: Of HTTP; 499 where the client left before the answer.
        error: The code or the type of the failure; `client_gone`.
        prompt: The text of the last user turn, and
        answer: of the answer; only with `ledger.texts`.
        arm: Of a canary: `stable` or `canary`; empty where none ran.
    """

    time: float
    kind: Literal["request", "audit"] = "request"
    request_id: str = ""
    tenant: str = ""
    endpoint: str = ""
    tier: str = NOBODY
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    without_usd: float = 0.0
    latency_s: float = 0.0
    stages: dict[str, float] = {}
    cache: str = ""
    reason: str = ""
    similarity: float | None = None
    evidence: float | None = None
    score: float | None = None
    route: str = ""
    cascade: str | None = None
    schema: str | None = None
    attempts: int = 0
    finished: bool = True
    status: int = 200
    error: str = ""
    prompt: str | None = None
    answer: str | None = None
    arm: str = ""


def nano(usd: float) -> int:
    """Return dollars as whole billionths."""
    return round(usd * NANO)


def usd(nanos: int) -> float:
    """Return billionths as dollars."""
    return nanos / NANO


def answered(time: float, outcome: Outcome, texts: bool = False) -> Record:
    """Record an answered request.

    Args:
        texts: Whether to keep what was said.
    """
    cache, body = outcome.cache, outcome.completion.body
    usage = outcome.completion.usage
    # a hit's own usage tells of the request that it was an answer to
    details = None if cache.status == "hit" else (body.get("usage") or {}).get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    given_up = not outcome.finished and outcome.tier == NOBODY
    return Record(
        time=round(time, 6),
        request_id=outcome.request_id[:_LONGEST_ID],
        tenant=outcome.tenant,
        endpoint=outcome.endpoint,
        tier=outcome.tier,
        model=outcome.completion.target,
        prompt_tokens=int(usage.prompt_tokens),  # an upstream's word: it may be 12.0
        cached_tokens=int(cached or 0),
        completion_tokens=int(usage.completion_tokens),
        cost_usd=_rounded(outcome.cost_usd),
        without_usd=_rounded(outcome.cost_usd + outcome.saved_usd),
        latency_s=round(outcome.latency_s, 6),
        stages={name: round(seconds, 6) for name, seconds in outcome.stages.items()},
        cache=cache.status,
        reason=cache.reason,
        similarity=cache.similarity,
        evidence=cache.evidence,
        score=outcome.score,
        route=outcome.route,
        cascade=outcome.cascade,
        schema=outcome.schema,
        attempts=outcome.attempts,
        finished=outcome.finished,
        status=499 if given_up else 200,
        error=outcome.error or ("" if outcome.finished else "client_gone"),
        prompt=outcome.prompt if texts else None,
        answer=_text(body) if texts else None,
        arm=outcome.arm,
    )


def refused(
    time: float, error: GatewayError, *, request_id: str, tenant: str, endpoint: str, latency_s: float, arm: str = ""
) -> Record:
    """Record a request that got an error, with what it cost; the message stays out, since it may quote the request."""
    return Record(
        time=round(time, 6),
        request_id=request_id[:_LONGEST_ID],
        tenant=tenant,
        endpoint=endpoint,
        cost_usd=_rounded(error.spent_usd),
        latency_s=round(latency_s, 6),
        finished=False,
        status=error.status_code,
        error=error.code or error.type,
        arm=arm,
    )


def audited(time: float, what: str, tenant: str, tier: str, cost_usd: float, arm: str = "") -> Record:
    """Record a check of a stored or of a routed answer: what it cost.

    Args:
        what: Was checked.
        tier: Whose answer it was.
    """
    cost = _rounded(cost_usd)
    return Record(time=round(time, 6), kind="audit", tenant=tenant, tier=tier, reason=what, cost_usd=cost, arm=arm)


def _rounded(dollars: float) -> float:
    return usd(nano(dollars))


def _text(body: Mapping[str, Any]) -> str | None:
    choices = body.get("choices") or [{}]
    content = (choices[0].get("message") or {}).get("content")
    # half a character, which an upstream may send, cannot be written
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else None
