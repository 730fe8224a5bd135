"""Which tier a conversation has reached, so that its next turn does not fall below."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.cache.store import RedisStore


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
    calls = [call.get("function") for call in answer.get("tool_calls") or ()]
    said = answer.get("content")
    parts = [tenant, question, said.strip() if isinstance(said, str) else said, calls]
    return hashlib.blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=16).hexdigest()


class RedisConversations:
    """Conversations in Redis, `tw:talk:NAME` to a tier's name, for all replicas."""

    def __init__(self, store: RedisStore, ttl_s: int) -> None:
        self._store = store
        self._ttl_s = ttl_s

    async def tier(self, name: str) -> str | None:
        """Return the tier that a conversation has reached.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        found: bytes | None = await self._store.run(lambda client: client.get(f"tw:talk:{name}"))
        return None if found is None else found.decode()

    async def remember(self, name: str, tier: str) -> None:
        """Note the tier that a conversation has reached. Raises as `tier` does."""
        await self._store.run(lambda client: client.set(f"tw:talk:{name}", tier, ex=self._ttl_s))
