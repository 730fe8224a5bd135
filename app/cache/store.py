"""Entries and their vectors in Redis 8: the one place that knows how they are kept.

| key                   | type       | holds                                                                       |
|-----------------------|------------|-----------------------------------------------------------------------------|
| `tw:{SCOPE}:e:ENTRY`  | string     | a CacheEntry as JSON, with a TTL                                            |
| `tw:{SCOPE}:v:SPACE`  | vector set | ENTRY to its text's vector                                                  |
| `tw:{SCOPE}:spaces`   | set        | the SPACEs that the scope has vectors in                                    |
| `tw:{SCOPE}:used`     | sorted set | ENTRY by its last use, for what is evicted first                            |
| `tw:{SCOPE}:ends`     | sorted set | ENTRY by its end, for the sweeper (`app/cache/admin.py`)                    |
| `tw:tenant:TENANT`    | sorted set | SCOPE by the end of its last entry                                          |
| `tw:tenants`          | set        | every TENANT                                                                |

One vector set per scope, so isolation is a key's name; the braces keep a scope on one shard of a cluster. Times are
Unix times in seconds.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from pydantic import FilePath, PositiveFloat, PositiveInt

from app.cache.decision import Candidate
from app.cache.relay import RedisRelay, key_name
from app.errors import CacheUnavailableError, ConfigError
from app.failfast import FailFast
from app.schema import CacheEntry, CacheKey, Embedding
from app.section import Section

T = TypeVar("T")
_entries = msgspec.json.Decoder(CacheEntry)


_EXPIRED_AT_ONCE = 20  # entries that a write clears away; more than one, so that they do not pile up
_FLUSH_S = 1.0  # uses are written so much later, together
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a tenant's answers are kept, and how many in one scope before the least recently used goes."""

    ttl_s: int = 24 * 3600
    max_entries: int = 100_000


class RedisConfig(Section):
    """A Redis 8 with vector sets, by the URL in an environment variable, since a URL may hold a password.

    `embedded: true` lets `tierwise serve` start one of its own and set the variable. A URL `rediss://` is TLS.

    Attributes:
        url_env: The environment variable that holds the URL.
        embedded: Whether `tierwise serve` starts one.
        cluster: The URL is that of a node of a Redis Cluster.
        ca_file: Certificates that a TLS server's must descend from, in place of the system's.
        cert_file: This client's own certificate, where the server asks for one;
        key_file: and its key.
        timeout_s: Longest wait for a connection and for an answer; one that is slower is down.
        retry_after_s: How long a Redis that is down is not asked again.
        max_connections: Of a replica.
    """

    url_env: str = "TIERWISE_REDIS_URL"
    embedded: bool = False
    cluster: bool = False
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
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

    def has_url(self) -> bool:
        """Whether the environment has the URL."""
        return bool(os.environ.get(self.url_env))

    def build(self, limits: Callable[[str], Limits] = lambda tenant: Limits(), url: str | None = None) -> RedisStore:
        """Make a client, by default of the configured URL; it connects when it is first used.

        Args:
            limits: Those of a tenant.

        Raises:
            ConfigError: The variable is not set, or the TLS files do not fit the URL.
        """
        from redis.asyncio import Redis, RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        kind = RedisCluster if self.cluster else Redis
        url = url or self.url()
        client = kind.from_url(
            url,
            protocol=3,
            socket_timeout=self.timeout_s,
            socket_connect_timeout=self.timeout_s,
            max_connections=self.max_connections,
            retry=Retry(NoBackoff(), 1),  # once, for a connection the server has closed meanwhile
            **self._tls(url),
        )
        return RedisStore(client, limits, FailFast(self.retry_after_s))

    def _tls(self, url: str) -> dict[str, Any]:
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        given = {name: file for name, file in files.items() if file is not None}
        if given and not url.startswith("rediss://"):
            raise ConfigError(
                f"redis.ca_file, cert_file, key_file are for TLS: {self.url_env} must start with rediss://"
            )
        return given


class RedisStore:
    """An ExactCache, and the candidates of the semantic one. Fails fast for a while after a failure.

    Args:
        limits: Those of a tenant.
    """

    def __init__(self, client: Any, limits: Callable[[str], Limits], failfast: FailFast) -> None:
        self._client = client
        self._limits = limits
        self._failfast = failfast
        self._used: dict[tuple[str, str], float] = {}
        self._flush: asyncio.Task[None] | None = None

    def limited(self, limits: Callable[[str], Limits]) -> RedisStore:
        """Make another store over the same connections, with limits of its own; the two fail fast together."""
        return RedisStore(self._client, limits, self._failfast)

    def relay(self) -> RedisRelay:
        """Make a FlightRelay over the same connections, which fails fast with them."""
        return RedisRelay(self._client, self._call)

    async def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the live entry of exactly this key.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        entry = await self._read(key)
        if entry is not None:
            self.touch(key.scope, key.entry)
        return entry

    async def put(self, key: CacheKey, entry: CacheEntry, embedding: Embedding | None) -> None:
        """Store an entry; with an embedding it can be found by meaning too. What has expired or is over the limit goes.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        limits, now = self._limits(entry.tenant), time.time()
        await self.add(key.scope, key.entry, msgspec.json.encode(entry), entry.tenant, now, limits.ttl_s, embedding)
        lists = self._client.pipeline(transaction=False)
        lists.zcard(scope_name(key.scope, "used"))
        lists.zrangebyscore(scope_name(key.scope, "ends"), "-inf", now, 0, _EXPIRED_AT_ONCE)
        count, expired = await self._call(lists.execute)
        surplus = count - len(expired) - limits.max_entries
        if surplus > 0:
            used = scope_name(key.scope, "used")
            expired += await self._call(lambda: self._client.zrange(used, 0, surplus - 1))
        await self.evict(key.scope, [entry.decode() for entry in expired])

    async def add(
        self, scope: str, entry: str, raw: bytes, tenant: str, used: float, ttl_s: int, *embeddings: Embedding | None
    ) -> None:
        """Write an entry with its vectors and its place in every list.

        Args:
            raw: A CacheEntry as JSON.
            used: When it was last used.
            ttl_s: Its time to live, if the tenant's is not shorter.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        kept_s = self._limits(tenant).ttl_s
        ttl_s = min(ttl_s, kept_s)
        ends = time.time() + ttl_s
        pipe = self._client.pipeline(transaction=False)
        pipe.set(key_name(scope, "e", entry), raw, ex=ttl_s)
        pipe.zadd(scope_name(scope, "used"), {entry: used})
        pipe.zadd(scope_name(scope, "ends"), {entry: ends})
        pipe.zadd(tenant_name(tenant), {scope: ends}, gt=True)
        pipe.sadd(TENANTS, tenant)
        for embedding in embeddings:
            if embedding is not None:
                name = vectors_name(scope, embedding.space)
                pipe.execute_command("VADD", name, "FP32", embedding.vector, entry)
                pipe.sadd(scope_name(scope, "spaces"), embedding.space)
                pipe.expire(name, kept_s)
        for kind in ("used", "ends", "spaces"):
            pipe.expire(scope_name(scope, kind), kept_s)  # a scope nobody writes to goes as a whole
        await self._call(pipe.execute)

    async def evict(self, scope: str, entries: Sequence[str]) -> int:
        """Remove entries of a scope from everywhere; return how many were there.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        if not entries:
            return 0
        spaces = await self._call(lambda: self._client.smembers(scope_name(scope, "spaces")))
        pipe = self._client.pipeline(transaction=False)
        pipe.delete(*[key_name(scope, "e", entry) for entry in entries])
        pipe.zrem(scope_name(scope, "used"), *entries)
        pipe.zrem(scope_name(scope, "ends"), *entries)
        for space in spaces:
            for entry in entries:
                pipe.execute_command("VREM", vectors_name(scope, space.decode()), entry)
        return int((await self._call(pipe.execute))[0])

    async def forget(self, key: CacheKey, tenant: str | None) -> bool:
        """Evict an entry if it is the tenant's; None evicts anybody's. Say whether it was there.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        entry = await self._read(key)
        if entry is None or tenant not in (None, entry.tenant):
            return False
        return bool(await self.evict(key.scope, [key.entry]))

    def touch(self, scope: str, entry: str) -> None:
        """Note that an entry was used; written with other uses, off the path."""
        self._used[scope, entry] = time.time()
        if self._flush is None or self._flush.done():
            # in a context of its own: in that of the request, Serve would cancel it with that
            self._flush = asyncio.create_task(self._flush_later(), context=contextvars.Context())

    async def _flush_later(self) -> None:
        await asyncio.sleep(_FLUSH_S)
        await self.flush()

    async def flush(self) -> None:
        """Write the uses that were noted."""
        used, self._used = self._used, {}
        if not used:
            return
        pipe = self._client.pipeline(transaction=False)
        for (scope, entry), at in used.items():
            pipe.zadd(scope_name(scope, "used"), {entry: at}, xx=True)
        try:
            await self._call(pipe.execute)
        except CacheUnavailableError as error:
            log.warning("uses of the cache were not noted: %s", error.message)

    async def nearest(self, key: CacheKey, embedding: Embedding, count: int) -> list[Candidate]:
        """Return up to `count` candidates of the key's scope by falling cosine; some may have expired.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        name = vectors_name(key.scope, embedding.space)
        scores: dict[bytes, float] = await self._call(
            lambda: self._client.execute_command("VSIM", name, "FP32", embedding.vector, "WITHSCORES", "COUNT", count)
        )
        # Redis scores (1 + cosine) / 2
        found = [Candidate(element.decode(), 2 * score - 1) for element, score in (scores or {}).items()]
        return sorted(found, key=lambda candidate: -candidate.similarity)

    async def fetch(self, key: CacheKey, candidates: Sequence[Candidate]) -> list[CacheEntry | None]:
        """Return the entries of candidates, None for one that has expired; what is left of it is removed.

        Raises:
            CacheUnavailableError: Redis did not answer.
        """
        if not candidates:
            return []
        names = [key_name(key.scope, "e", candidate.entry) for candidate in candidates]
        entries = [decoded(raw) for raw in await self._call(lambda: self._client.mget(names))]
        await self.evict(key.scope, [c.entry for c, entry in zip(candidates, entries, strict=True) if entry is None])
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
        """Write what is left to write and close the connections."""
        if self._flush is not None:
            self._flush.cancel()
        await self.flush()
        await self._client.aclose()

    async def _read(self, key: CacheKey) -> CacheEntry | None:
        return decoded(await self._call(lambda: self._client.get(key_name(key.scope, "e", key.entry))))

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T:
        if self._failfast.tripped:
            raise CacheUnavailableError("Redis did not answer a moment ago")
        try:
            return await command()
        # Not RedisError alone: a cluster's client that has lost a node closes its connections to all of them, and the
        # calls that are about to use one fail by whatever they were at.
        except Exception as error:
            self._failfast.trip()
            raise CacheUnavailableError(f"Redis: {type(error).__name__}: {error}") from error


TENANTS = "tw:tenants"


def tenant_name(tenant: str) -> str:
    """Name the list of a tenant's scopes."""
    return f"tw:tenant:{tenant}"


def scope_name(scope: str, kind: str) -> str:
    """Name a list of a scope's."""
    return f"tw:{{{scope}}}:{kind}"


def vectors_name(scope: str, space: str) -> str:
    """Name a scope's vector set in a space."""
    return key_name(scope, "v", space)


def decoded(raw: bytes | None) -> CacheEntry | None:
    """Decode an entry; None for one that another version wrote: the next answer replaces it."""
    try:
        return None if raw is None else _entries.decode(raw)
    except msgspec.DecodeError:
        return None
