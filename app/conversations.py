"""Which tier a conversation has reached, so that its next turn does not fall below."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from app.cache.store import RedisStore

_RENEWED = 1 / 24  # of its time: the same answer may be given from the cache a thousand times a second
_MOST_NOTED = 10_000


def begun(messages: Sequence[Mapping[str, Any]], tenant: str) -> str | None:
    """Name the conversation that a request goes on with, by the last answer in it; None for a first turn."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].get("role") == "assistant":
            return _name(messages[:i], messages[i], tenant)
    return None


def continued(messages: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], tenant: str) -> str:
    """Name the conversation that the answer's next turn will go on with."""
    return _name(messages, answer, tenant)


def _name(asked: Sequence[Mapping[str, Any]], answer: Mapping[str, Any], tenant: str) -> str:
    """Digest the last question and its answer alone: clients cut old turns off, and ids of tool calls change."""
    question = next((message.get("content") for message in reversed(asked) if message.get("role") == "user"), None)
    calls = [_called(call.get("function")) for call in answer.get("tool_calls") or ()]
    parts = [tenant, _said(question), _said(answer.get("content")), calls]
    return hashlib.blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=16).hexdigest()


def _said(content: Any) -> list[Any]:
    """Return a content's text, and then what else it has: clients send one text as a string or in parts."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    text = "".join(str(part.get("text") or "") for part in parts if part.get("type") == "text")
    return [text.strip(), *(part for part in parts if part.get("type") != "text")]


def _called(function: Any) -> Any:
    """Return a call's name and arguments as values: clients and other dialects write their JSON anew."""
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return function
    try:
        return [function.get("name"), msgspec.json.decode(function["arguments"])]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [function.get("name"), function["arguments"]]


class RedisConversations:
    """Conversations in Redis, `tw:tiers:NAME` to the tiers that each has reached, for all replicas.

    A field for each tier, which expires by itself. Two conversations may have one name, as after "Thanks!": neither
    lowers what the other has reached, nor keeps it from being forgotten.

    Args:
        ttl_s: How long a tier is remembered.
        clock: In seconds.
    """

    def __init__(self, store: RedisStore, ttl_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._clock = clock
        self._noted: dict[tuple[str, str], float] = {}

    async def tiers(self, name: str) -> frozenset[str]:
        """Return the tiers that a conversation has reached.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        found: list[bytes] = await self._store.run(lambda client: client.hkeys(f"tw:tiers:{name}"))
        return frozenset(tier.decode() for tier in found)

    async def remember(self, name: str, tier: str) -> None:
        """Note a tier that a conversation has reached. Raises as `tiers` does."""
        now = self._clock()
        if now - self._noted.get((name, tier), -math.inf) < self._ttl_s * _RENEWED:
            return

        def note(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            pipe.hsetex(f"tw:tiers:{name}", tier, "", ex=self._ttl_s)
            pipe.expire(f"tw:tiers:{name}", self._ttl_s)  # so that it may be evicted where memory is short
            return pipe.execute()

        await self._store.run(note)
        if len(self._noted) >= _MOST_NOTED:
            self._noted.clear()
        self._noted[name, tier] = now
