"""What an operator does with a running cache from the command line."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track

from app.bundled import run_dir
from app.cache import RedisStore
from app.cache.admin import CacheAdmin, Row
from app.config import read_serve_file
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError

T = TypeVar("T")
_CONSOLE = Console(stderr=True)
_TIMEOUT_S = 10.0  # nobody waits for an answer here


@dataclass(frozen=True, slots=True)
class Imported:
    """Lines of a file: stored, expired meanwhile, not readable."""

    stored: int
    expired: int
    bad: int


def cache_stats(config_file: Path, tenant: str | None) -> dict[str, Any]:
    """Count what each tenant has, and all together.

    Raises:
        ConfigError: The configuration has no cache, or its embedded Redis does not run.
        CacheUnavailableError: Redis did not answer.
    """

    async def count(admin: CacheAdmin) -> dict[str, Any]:
        found = [await admin.stats(name) for name in await _tenants(admin, tenant)]
        total = {
            kind: sum(getattr(stats, kind) for stats in found) for kind in ("scopes", "entries", "vectors", "bytes")
        }
        return {"total": total, "tenants": [asdict(stats) for stats in found]}

    return _with_admin(config_file, count)


def cache_export(config_file: Path, file: Path, tenant: str | None) -> int:
    """Write every entry to a file, a JSON object a line; return how many. Raises as `cache_stats` does."""

    async def write(admin: CacheAdmin) -> int:
        count = 0
        with _opened(file, "wb") as lines, _counting("export") as advance:
            for name in await _tenants(admin, tenant):
                async with aclosing(admin.export(name)) as rows:
                    async for row in rows:
                        lines.write(msgspec.json.encode(row) + b"\n")
                        count += 1
                        advance()
        return count

    return _with_admin(config_file, write)


def cache_import(config_file: Path, file: Path, say: Callable[[str], None]) -> Imported:
    """Store the entries of a file; lines that cannot be read are named and left out. Raises as `cache_stats` does."""
    try:
        with _opened(file, "rb") as opened:
            lines = opened.readlines()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read `{file}`: {error}") from error

    async def store(admin: CacheAdmin) -> Imported:
        stored = bad = 0
        for number, line in enumerate(track(lines, "import", console=_CONSOLE), 1):
            try:
                stored += await admin.load(msgspec.json.decode(line, type=Row))
            except (msgspec.DecodeError, ValueError) as error:  # not UTF-8, not base64, of another length
                say(f"`{file}` line {number} is left out: {error}")
                bad += 1
        return Imported(stored, len(lines) - stored - bad, bad)

    return _with_admin(config_file, store)


def cache_clear(config_file: Path, tenant: str | None) -> int:
    """Evict every entry; return how many. Raises as `cache_stats` does."""

    async def clear(admin: CacheAdmin) -> int:
        return sum([await admin.clear_tenant(name) for name in await _tenants(admin, tenant)])

    return _with_admin(config_file, clear)


async def _tenants(admin: CacheAdmin, tenant: str | None) -> list[str]:
    return await admin.tenants() if tenant is None else [tenant]


def _with_admin(config_file: Path, work: Callable[[CacheAdmin], Coroutine[Any, Any, T]]) -> T:
    return with_store(config_file, lambda store: work(CacheAdmin(store)))


def with_store(config_file: Path, work: Callable[[RedisStore], Coroutine[Any, Any, T]]) -> T:
    """Run work on what a configuration stores: in its Redis by URL, or the embedded one of the gateway that runs it.

    Raises:
        ConfigError: The configuration has no Redis, or its embedded one does not run.
    """
    file = read_serve_file(config_file)
    redis = file.config.redis
    if redis is None:
        raise ConfigError(f"`{config_file}` has no `redis`, so there is no cache and no ledger")
    url = None
    if redis.embedded and not redis.has_url():
        url = EmbeddedRedis.running_at(run_dir(file.port) / "redis")
        if url is None:
            raise ConfigError(
                f"the embedded Redis of `{config_file}` does not run; start `tierwise serve {config_file}`"
            )

    async def run() -> T:
        patient = redis.model_copy(update={"timeout_s": _TIMEOUT_S})
        store = patient.build(file.config.cache.limits, url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


@contextmanager
def _opened(file: Path, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
    with file.open(mode) as plain:
        if file.suffix != ".gz":
            yield plain
            return
        with gzip.GzipFile(fileobj=plain, mode=mode) as packed:
            yield cast(IO[bytes], packed)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[], None]]:
    """Show how many there have been."""
    columns = (SpinnerColumn(), TextColumn(f"{what} {{task.completed}}"), TimeElapsedColumn())
    with Progress(*columns, console=_CONSOLE) as progress:
        task = progress.add_task("", total=None)
        yield lambda: progress.advance(task)
