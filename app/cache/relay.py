"""A FlightRelay in Redis: who makes a call, who waits for it, and what has come of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from app.schema import CacheKey

# Renew the lead, or with 0 give it up, if it is still ours.
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_FOLLOWED_MS = 500
_LOG_MS = 10_000  # longer than any pause of a leader that is alive, or of a follower


class RedisRelay:
    """Leads, followers and logs of calls, by the scope's hash tag on one shard of a cluster.

    A log is a string that is written at offsets, so that a write which is repeated changes nothing. Its name has the
    leader's token: the logs of two leaders never mix.

    Args:
        client: Of the store.
        call: Runs a command, failing fast and by `CacheUnavailableError`.
        lease_s: A leader that says nothing for so long is lost.
    """

    def __init__(
        self, client: Any, call: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]], lease_s: float = 3.0
    ) -> None:
        self._client = client
        self._call = call
        self._lease_ms = int(lease_s * 1000)

    async def claim(self, key: CacheKey, token: str) -> tuple[str | None, bool]:
        """Take the lead if nobody has it.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.execute_command("SET", _name(key, "f"), token, "NX", "GET", "PX", self._lease_ms, get=True)
        pipe.exists(key_name(key.scope, "e", key.entry.partition(":")[0]))  # a flight's name may have a max-age
        leader, stored = await self._call(pipe.execute)
        return leader and leader.decode(), bool(stored)

    async def publish(self, key: CacheKey, token: str, offset: int, lines: bytes, over: bool) -> bool:
        """Write lines of the leader's log, and renew the lead or give it up. Raises as `claim` does."""
        pipe = self._client.pipeline(transaction=False)
        if lines:
            pipe.setrange(_log_name(key, token), offset, lines)
        pipe.pexpire(_log_name(key, token), _LOG_MS)
        pipe.exists(_name(key, "w"))
        pipe.eval(_RENEW, 1, _name(key, "f"), token, 0 if over else self._lease_ms)
        return bool((await self._call(pipe.execute))[-2])

    async def read(self, key: CacheKey, token: str, offset: int) -> tuple[bool, bytes]:
        """Read the leader's log, and say that somebody does. Raises as `claim` does."""
        pipe = self._client.pipeline(transaction=False)
        pipe.set(_name(key, "w"), b"", px=_FOLLOWED_MS)
        pipe.get(_name(key, "f"))  # before the log: a leader ends it first
        pipe.getrange(_log_name(key, token), offset, -1)
        _, leader, lines = await self._call(pipe.execute)
        return leader == token.encode(), lines


def key_name(scope: str, kind: str, entry: str) -> str:
    """Name a key of a scope; the braces keep the scope on one shard."""
    return f"tw:{{{scope}}}:{kind}:{entry}"


def _name(key: CacheKey, kind: str) -> str:
    return key_name(key.scope, kind, key.entry)


def _log_name(key: CacheKey, token: str) -> str:
    return f"{_name(key, 's')}:{token}"
