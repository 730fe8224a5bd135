"""One line for each request: what was decided and what it cost, never what was said.

Where Serve writes lines of JSON (`logging_config: {encoding: JSON}`), the facts are fields of the line; else they are
JSON in its text.
"""

from __future__ import annotations

import logging
from typing import Any

from ray._common.formatters import JSONFormatter

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
    if _in_json():
        # Serve's name for fields that stand beside its own, of which `route` would be in the place of ours
        log.log(level, "request", extra={"ray_serve_extra_fields": said, "skip_context_filter": True})
    else:
        log.log(level, "%s", encode(said).decode())


def _in_json() -> bool:
    """Whether Serve's log of the replica is lines of JSON."""
    handlers = logging.getLogger("ray.serve").handlers  # one of them gathers lines for the file's, its `target`
    return any(isinstance((getattr(one, "target", None) or one).formatter, JSONFormatter) for one in handlers)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
