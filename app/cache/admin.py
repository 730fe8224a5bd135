"""The cache as its operator sees it: what is in it, what has expired, and all of it out of Redis and in again."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from app.cache.bounds import forget_bound
from app.cache.relay import key_name
from app.cache.store import TENANTS, RedisStore, decoded, scope_name, tenant_name, vectors_name
from app.schema import CacheEntry, Embedding

_BLOCK = 256  # entries read or removed at once
_SAMPLE = 50  # entries whose size stands for the others'


@dataclass(frozen=True, slots=True)
class TenantStats:
    """What a tenant has in the cache.

    Attributes:
        bytes: Of its entries and vectors, from a sample of the entries.
    """

    tenant: str
    scopes: int
    entries: int
    vectors: int
    bytes: int


class Row(msgspec.Struct):
    """An entry as it is exported.

    Attributes:
        ttl_s: Seconds it has left.
        used: Its last use, as Unix time.
        vectors: Space to the base64 of little-endian float32.
    """

    scope: str
    entry: str
    ttl_s: int
    used: float
    value: CacheEntry
    vectors: dict[str, str] = {}


class CacheAdmin:
    """Works on a whole cache, block by block; every method raises CacheUnavailableError if Redis does not answer."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def tenants(self) -> list[str]:
        """Name the tenants that have stored anything."""
        found = await self._store.run(lambda client: client.smembers(TENANTS))
        return sorted(name.decode() for name in found)

    async def stats(self, tenant: str) -> TenantStats:
        """Count what a tenant has."""
        scopes = entries = vectors = size = 0
        for scope in await self._scopes(tenant):
            names = await self._entries(scope, _SAMPLE)
            count = await self._count(scope_name(scope, "used"))
            scopes, entries = scopes + bool(count), entries + count
            sampled = sum([await self._size(key_name(scope, "e", name)) for name in names])
            size += round(sampled / len(names) * count) if names else 0
            for space in await self._spaces(scope):
                name = vectors_name(scope, space)
                vectors += await self._vectors(name)
                size += await self._size(name)
        return TenantStats(tenant, scopes, entries, vectors, size)

    async def clear_tenant(self, tenant: str) -> int:
        """Evict all that a tenant has; return how many entries that were."""
        return sum([await self.clear_scope(scope, tenant) for scope in await self._scopes(tenant)])

    async def clear_scope(self, scope: str, tenant: str | None = None) -> int:
        """Evict all of a scope; return how many entries that were.

        Args:
            tenant: Whose it is, to take it off the tenant's list at once; the sweeper does so else.
        """
        evicted = 0
        while names := await self._entries(scope, _BLOCK):
            evicted += await self._store.evict(scope, names)
        names = [vectors_name(scope, space) for space in await self._spaces(scope)]
        names += [scope_name(scope, kind) for kind in ("used", "ends", "spaces")]
        await self._store.run(lambda client: client.delete(*names))
        await forget_bound(self._store, scope)
        if tenant is not None:
            await self._store.run(lambda client: client.zrem(tenant_name(tenant), scope))
        return evicted

    async def sweep(self) -> int:
        """Remove what is left of scopes whose last entry has expired, and tenants that have none; return how many.

        A scope that is written to clears itself. Several sweepers at once do no harm; an entry that is written in the
        very moment that its scope is removed costs a miss.
        """
        swept, now = 0, time.time()
        for tenant in await self.tenants():
            dead = await self._scopes(tenant, until=now)
            for scope in dead:
                await self.clear_scope(scope)
            swept += len(dead)
            await self._forget_dead(tenant, now)
        return swept

    async def export(self, tenant: str) -> AsyncGenerator[Row, None]:
        """Yield the entries of a tenant with their vectors."""
        for scope in await self._scopes(tenant):
            spaces = await self._spaces(scope)
            names = await self._entries(scope, -1)
            for start in range(0, len(names), _BLOCK):
                for row in await self._rows(scope, names[start : start + _BLOCK], spaces):
                    yield row

    async def load(self, row: Row) -> bool:
        """Store an exported entry for as long as it had left; False if that is no time.

        Raises:
            ValueError: A vector cannot be read, or is not as long as the others of its scope.
        """
        if row.ttl_s <= 0:
            return False
        vectors = [Embedding(space, base64.b64decode(vector, validate=True)) for space, vector in row.vectors.items()]
        for embedding in vectors:
            await self._check(row.scope, embedding)
        raw = msgspec.json.encode(row.value)
        await self._store.add(row.scope, row.entry, raw, row.value.tenant, row.used, row.ttl_s, *vectors)
        return True

    async def _check(self, scope: str, embedding: Embedding) -> None:
        """Raise a ValueError for a vector that Redis would refuse, which looks like one that is down."""
        name = vectors_name(scope, embedding.space)
        numbers = np.frombuffer(embedding.vector, "<f4")  # a ValueError where bytes are left over
        if not numbers.size or not np.isfinite(numbers).all():
            raise ValueError(f"the vector in {embedding.space} is no vector")
        if await self._vectors(name):
            length = int(await self._store.run(lambda client: client.execute_command("VDIM", name)))
            if length != numbers.size:
                raise ValueError(f"the vector in {embedding.space} has {numbers.size} numbers, not {length}")

    async def _rows(self, scope: str, names: list[str], spaces: list[str]) -> list[Row]:
        def read(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            for name in names:
                pipe.get(key_name(scope, "e", name))
                pipe.ttl(key_name(scope, "e", name))
                pipe.zscore(scope_name(scope, "used"), name)
                for space in spaces:
                    pipe.execute_command("VEMB", vectors_name(scope, space), name)
            return pipe.execute()

        found = await self._store.run(read)
        rows, width = [], 3 + len(spaces)
        for i, name in enumerate(names):
            raw, ttl_s, used, *vectors = found[i * width : (i + 1) * width]
            value = decoded(raw)
            if value is not None and ttl_s > 0:
                kept = {space: _packed(vector) for space, vector in zip(spaces, vectors, strict=True) if vector}
                rows.append(Row(scope, name, ttl_s, float(used or 0), value, kept))
        return rows

    async def _scopes(self, tenant: str, until: float | str = "+inf") -> list[str]:
        """Name a tenant's scopes; with a time, those whose last entry has expired by then."""
        found = await self._store.run(lambda client: client.zrangebyscore(tenant_name(tenant), "-inf", until))
        return [scope.decode() for scope in found]

    async def _entries(self, scope: str, count: int) -> list[str]:
        """Name up to `count` entries, the least recently used first; -1 for all."""
        last = count - 1 if count > 0 else -1
        found = await self._store.run(lambda client: client.zrange(scope_name(scope, "used"), 0, last))
        return [name.decode() for name in found]

    async def _spaces(self, scope: str) -> list[str]:
        found = await self._store.run(lambda client: client.smembers(scope_name(scope, "spaces")))
        return sorted(space.decode() for space in found)

    async def _forget_dead(self, tenant: str, now: float) -> None:
        # by time, not by name: a scope that was written to meanwhile stays
        await self._store.run(lambda client: client.zremrangebyscore(tenant_name(tenant), "-inf", now))
        if not await self._count(tenant_name(tenant)):
            await self._store.run(lambda client: client.srem(TENANTS, tenant))

    async def _count(self, name: str) -> int:
        return int(await self._store.run(lambda client: client.zcard(name)))

    async def _vectors(self, name: str) -> int:
        return int(await self._store.run(lambda client: client.execute_command("VCARD", name)) or 0)

    async def _size(self, name: str) -> int:
        return await self._store.run(lambda client: client.memory_usage(name)) or 0


def _packed(vector: Iterable[float]) -> str:
    return base64.b64encode(np.fromiter(vector, "<f4").tobytes()).decode()
