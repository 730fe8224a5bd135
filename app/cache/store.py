"""Entries and their vectors in Redis 8. With `relay.py`, what knows Redis.

| key                        | type       | holds                                                                  |
|----------------------------|------------|------------------------------------------------------------------------|
| `tw:{SCOPE}:e:ENTRY`       | string     | a CacheEntry as JSON, with a TTL                                       |
| `tw:{SCOPE}:v:SPACE`       | vector set | ENTRY to its text's vector; elements outlive their entry until looked up |

One vector set per scope, so isolation is a key's name; the braces keep a scope on one shard of a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pydantic import PositiveFloat, PositiveInt

from app.cache.decision import Candidate
from app.cache.relay import RedisRelay, key_name
from app.errors import CacheUnavailableError, ConfigError
from app.failfast import FailFast
from app.schema import CacheEntry, CacheKey, Embedding
from app.section import Section

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
_entries = msgspec.json.Decoder(CacheEntry)


class RedisConfig(Section):
    """A Redis 8 with vector sets, by the URL in an environment variable, since a URL may hold a password.

    `embedded: true` lets `tierwise serve` start one of its own and set the variable.
    """

    url_env: str = "TIERWISE_REDIS_URL"
    embedded: bool = False
    timeout_s: PositiveFloat = 0.25
    retry_after_s: PositiveFloat = 0.5
    max_connections: PositiveInt = 128

    def url(self) -> str:
        """Read the URL from the environment.

        Raises:
            ConfigError: The variable is not set.
        """
        url = os.environ.get(self.url_env)
        if not url:
            hint = "start with `tierwise serve`, which runs an embedded Redis, or " if self.embedded else ""
            raise ConfigError(f"redis.url_env: {self.url_env} is not set; {hint}set it to the URL of a Redis 8")
        return url

    def build(self, ttl_s: int, url: str | None = None) -> RedisStore:
        """Make a client, by default of the configured URL; it connects when it is first used."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        client = Redis.from_url(
            url or self.url(),
            protocol=3,
            socket_timeout=self.timeout_s,
            socket_connect_timeout=self.timeout_s,
            max_connections=self.max_connections,
            retry=Retry(NoBackoff(), 1),  # once, for a connection the server has closed meanwhile
        )
        return RedisStore(client, ttl_s, FailFast(self.retry_after_s))


class RedisStore:
    """An ExactCache, and the candidates of the semantic one. Fails fast for a while after a failure."""

    def __init__(self, client: Redis, ttl_s: int, failfast: FailFast) -> None:
        self._client: Any = client
        self._ttl_s = ttl_s
        self._failfast = failfast

    def relay(self) -> RedisRelay:
        """Make a FlightRelay over the same connections, which fails fast with them."""
        return RedisRelay(self._client, self._call)

    async def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the live entry of exactly this key.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        return _decode(await self._call(lambda: self._client.get(_entry_name(key.scope, key.entry))))

    async def put(self, key: CacheKey, entry: CacheEntry, embedding: Embedding | None) -> None:
        """Store an entry; with an embedding it can be found by meaning too.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.set(_entry_name(key.scope, key.entry), msgspec.json.encode(entry), ex=self._ttl_s)
        if embedding is not None:
            name = _vectors_name(key.scope, embedding.space)
            pipe.execute_command("VADD", name, "FP32", embedding.vector, key.entry)
            pipe.expire(name, self._ttl_s)  # a scope nobody writes to goes as a whole
        await self._call(pipe.execute)

    async def forget(self, key: CacheKey, tenant: str) -> bool:
        """Evict an entry if it is the tenant's; its vector goes when it is next found.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        entry = await self.get(key)
        if entry is None or entry.tenant != tenant:
            return False
        return bool(await self._call(lambda: self._client.delete(_entry_name(key.scope, key.entry))))

    async def nearest(self, key: CacheKey, embedding: Embedding, count: int) -> list[Candidate]:
        """Return up to `count` candidates of the key's scope by falling cosine; some may have expired.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        name = _vectors_name(key.scope, embedding.space)
        scores: dict[bytes, float] = await self._call(
            lambda: self._client.execute_command("VSIM", name, "FP32", embedding.vector, "WITHSCORES", "COUNT", count)
        )
        # Redis scores (1 + cosine) / 2
        found = [Candidate(element.decode(), 2 * score - 1) for element, score in (scores or {}).items()]
        return sorted(found, key=lambda candidate: -candidate.similarity)

    async def fetch(
        self, key: CacheKey, candidates: Sequence[Candidate], embedding: Embedding
    ) -> list[CacheEntry | None]:
        """Return the entries of candidates, None for one that has expired; its vector is removed.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        if not candidates:
            return []
        names = [_entry_name(key.scope, candidate.entry) for candidate in candidates]
        entries = [_decode(raw) for raw in await self._call(lambda: self._client.mget(names))]
        gone = [candidate.entry for candidate, entry in zip(candidates, entries, strict=True) if entry is None]
        if gone:
            pipe = self._client.pipeline(transaction=False)
            for entry in gone:
                pipe.execute_command("VREM", _vectors_name(key.scope, embedding.space), entry)
            await self._call(pipe.execute)
        return entries

    async def run(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """Run a command of the client's, for what else is kept beside the entries.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        return await self._call(lambda: command(self._client))

    async def ping(self) -> None:
        """Ask for a sign of life, even while calls fail fast.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        self._failfast.reset()
        await self._call(self._client.ping)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T:
        import redis

        if self._failfast.tripped:
            raise CacheUnavailableError("Redis did not answer a moment ago")
        try:
            return await command()
        except (redis.RedisError, OSError, TimeoutError) as error:
            self._failfast.trip()
            raise CacheUnavailableError(f"Redis: {type(error).__name__}: {error}") from error


def _entry_name(scope: str, entry: str) -> str:
    return key_name(scope, "e", entry)


def _vectors_name(scope: str, space: str) -> str:
    return key_name(scope, "v", space)


def _decode(raw: bytes | None) -> CacheEntry | None:
    try:
        return None if raw is None else _entries.decode(raw)
    except msgspec.DecodeError:  # written by another version: the next answer replaces it
        return None
