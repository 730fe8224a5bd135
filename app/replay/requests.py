"""A logged request as the gateway would see it: its shape, its place in the cache, what it needs of a tier."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.cache import request_key
from app.cache.policy import lookup_refusal, storable
from app.config import GatewayConfig
from app.conversations import begun, continued
from app.replay.shapes import Record
from app.routing import TierConfig, needs_of
from app.schema import ChatRequest, Completion
from app.shaping import Shaper
from app.shaping.schema import fault
from app.shaping.tokens import count_tokens
from app.wire import last_user_text, message_text

ONLY_TENANT = "default"


class Gate:
    """What requests go through before the cache and the classifier, and what is kept of them for the later steps."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._shaper = Shaper(config.profiles, config.auto_models[0])
        self._narrowest = min(config.tiers, key=TierConfig.window)

    def fields(self, record: Record) -> dict[str, Any]:
        """Return the fields of a row of the table."""
        body = {**record.body, "model": record.body["model"] or self._config.auto_models[0]}
        tenant = record.tenant or ONLY_TENANT
        plain = ChatRequest(body, tenant, last_user_text(body["messages"]))
        request = self._shaper.shaped(plain, None)
        key = request_key(request)
        refusal = lookup_refusal(request, self._config.cache)
        needs = needs_of(request.body, self._narrowest, request.tiers)
        answer = dict(record.answer) if record.answer else None
        said = answer["choices"][0]["message"] if answer else None
        kept = refusal is None
        if answer is not None:
            kept = storable(request, Completion(answer, ""), self._config.cache)
            kept = kept and fault(body, answer) is None  # as it was asked for: a profile's answer would be another
        return {
            "time": _known(record.time),
            "tenant": tenant,
            "anonymous": not record.tenant,
            "route": record.route,
            "model": record.body["model"],
            "prompt": request.prompt,
            "message": msgspec.json.encode(said).decode() if said else "",
            "structured": ((request.body.get("response_format") or {}).get("type") or "text") != "text",
            "text_id": _number(request.prompt.encode("utf-8", "replace")),
            "scope": int(key.scope[:16], 16),
            "entry": int(key.entry[:16], 16),
            "semantic": key.semantic,
            "refusal": refusal or "",
            "storable": kept and record.ok,
            "abilities": ",".join(sorted(needs.abilities)),
            "needed_tokens": needs.tokens,
            "begun": _name(begun(request.body["messages"], tenant)),
            "continued": _name(continued(request.body["messages"], said, tenant) if said else None),
            "batch": record.batch,
            "free": record.free,
            "latency_s": _known(record.latency_s),
            "ok": record.ok,
            **self._shape(plain, request),
            **_counts(record, body["messages"], said),
        }

    def _shape(self, plain: ChatRequest, request: ChatRequest) -> dict[str, Any]:
        """Return what the request's profile makes of its tokens."""
        if request.profile is None:
            return {}
        model = str(plain.model)
        before, after = (_tokens(asked.body["messages"], model) for asked in (plain, request))
        own_limit = plain.body.get("max_tokens") or plain.body.get("max_completion_tokens")
        limit, raised = 0 if own_limit else request.body.get("max_tokens") or 0, request.raised_max_tokens or 0
        if raised and request.body.get("stream"):
            limit, raised = raised, 0  # from the start
        return {
            "profile": request.profile,
            "limit": limit,
            "raised_limit": raised,
            "added_tokens": after - before,
        }


def _counts(record: Record, messages: Sequence[Mapping[str, Any]], said: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the logged tokens, and a count of our own where the log has none."""
    completion = record.completion_tokens if record.ok else record.completion_tokens or 0
    answer = -1 if said is None else 0
    if said is not None and completion is None:
        answer = count_tokens(str(said.get("content") or ""), record.body["model"])
    return {
        "prompt_tokens": _known(record.prompt_tokens),
        "completion_tokens": _known(completion),
        "cached_tokens": _known(record.cached_tokens),
        "cache_write_tokens": _known(record.cache_write_tokens),
        "counted_tokens": _tokens(messages, record.body["model"]) if record.prompt_tokens is None else 0,
        "answer_tokens": answer,
    }


def _tokens(messages: Sequence[Mapping[str, Any]], model: str) -> int:
    return sum(count_tokens(message_text(message), model) for message in messages)


def _number(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _name(digest: str | None) -> int:
    return int(digest[:16], 16) if digest else 0


def _known(number: float | None) -> float:
    return float("nan") if number is None else float(number)
