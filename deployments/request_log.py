"""One line of JSON for each request: what was decided and what it cost, never what was said."""

from __future__ import annotations

import logging
from typing import Any

from app.api import caller
from app.errors import GatewayError
from app.schema import Outcome
from app.wire import encode

log = logging.getLogger("ray.serve.requests")  # goes where Serve's own log of the replica goes


class RequestLog:
    """Writes at INFO; a failure at WARNING if it is ours or an upstream's."""

    def record(self, outcome: Outcome) -> None:
        """Write what became of an answered request; of a stream, at its end."""
        cache, usage = outcome.cache, outcome.completion.usage
        facts = {
            "request_id": outcome.request_id,
            "tenant": outcome.tenant,
            "tier": outcome.tier,
            "model": outcome.completion.target,
            "route": outcome.route,
            "cascade": outcome.cascade,
            "schema": outcome.schema,
            "cache": cache.status,
            "reason": cache.reason,
            "similarity": _rounded(cache.similarity, 4),
            "evidence": _rounded(cache.evidence, 4),
            "entry": cache.entry_id,
            "score": _rounded(outcome.score, 4),
            "attempts": outcome.attempts,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost_usd": round(outcome.cost_usd, 8),
            "saved_usd": round(outcome.saved_usd, 8),
            "latency_ms": round(1e3 * outcome.latency_s, 2),
            "finished": outcome.finished,
        }
        _write(logging.INFO, facts)

    def record_error(self, error: GatewayError) -> None:
        """Write that a request failed; the message stays out, since an upstream may quote the request in it."""
        request_id, tenant = caller.get()
        who = {"request_id": request_id, "tenant": tenant}
        facts = {"status": error.status_code, "type": error.type, "code": error.code, "param": error.param}
        _write(logging.WARNING if error.status_code >= 500 else logging.INFO, who | facts)


def _write(level: int, facts: dict[str, Any]) -> None:
    said = {key: value for key, value in facts.items() if value is not None}
    log.log(level, "%s", encode(said).decode())


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
