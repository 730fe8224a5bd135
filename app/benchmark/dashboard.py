"""The dashboard over a generated month: to look at, and for the picture in the README.

Nothing here is measured: the page says that its data is generated. Records, calls and checks are drawn at random with a
fixed seed and written as the gateway writes them, into an embedded Redis that is gone at the end.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

from app.api_dashboard import add_dashboard
from app.browser import photograph
from app.cache import RedisConfig, RedisStore
from app.cache.bounds import EVERYWHERE, RedisBounds
from app.config import GatewayConfig
from app.dashboard import Dashboard
from app.embedded_redis import EmbeddedRedis
from app.ledger.calls import CallCounts
from app.ledger.record import Record, audited
from app.ledger.rollup import SLOT_S
from app.ledger.store import RedisLedger
from app.pricing import cost_usd
from app.quality.store import RedisQuality
from app.schema import Usage
from app.tier.shared import breakers_key

_NOTE = "Generated data: a month drawn at random, to show the page. Nothing on it was measured."
_DAYS = 30
_A_DAY = 3_000  # requests, on the last one
_TENANTS = {"acme": 0.34, "initech": 0.24, "globex": 0.16, "hooli": 0.12, "umbrella": 0.09, "stark": 0.05}
_CONFIG = GatewayConfig.model_validate(
    {
        "redis": {"timeout_s": 5},
        "baseline": "gpt-4o",
        "tiers": [
            {
                "name": "local",
                "max_score": 0.3,
                "llm": {"model": "mistralai/Mistral-7B-Instruct-v0.3", "name": "mistral-7b-instruct"},
            },
            {
                "name": "mid",
                "max_score": 0.7,
                "targets": [
                    {"model": "gpt-4o-mini", "api_key_env": None},
                    {"kind": "anthropic", "model": "claude-haiku-4-5", "api_key_env": None},
                ],
            },
            {
                "name": "top",
                "max_score": 1.0,
                "targets": [
                    {"model": "gpt-4o", "api_key_env": None},
                    {"kind": "anthropic", "model": "claude-sonnet-4-6", "api_key_env": None},
                ],
            },
        ],
    }
)
_HITS = {"exact": 0.55, "verified": 0.33, "surface": 0.12}
_MISSES = {"no candidate": 0.62, "unverified": 0.24, "guard: number": 0.09, "guard: name": 0.05}
_BYPASSES = {"personal": 0.45, "volatile": 0.35, "context": 0.2}
_ROUTES = {"local": (0.0, 0.3, 0.52), "mid": (0.3, 0.7, 0.33), "top": (0.7, 1.0, 0.15)}
_MODEL_S = {"local": 0.45, "mid": 0.8, "top": 1.6}


async def show(port: int, picture: Path | None) -> None:
    """Serve the page over generated data until the end of the process, or until its picture is taken."""
    async with _served(port) as url:
        if picture is None:
            print(f"{url}/dashboard shows generated data; Ctrl-C ends it", flush=True)
            await asyncio.Event().wait()
        else:
            await photograph(f"{url}/dashboard", picture, "#status[data-state=live]")


@asynccontextmanager
async def _served(port: int) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), persistent=False) as redis:
        store = RedisConfig(timeout_s=5).build(url=redis.url)
        await fill(store, time.time())
        api = FastAPI()
        add_dashboard(api, Dashboard(_CONFIG, store, watched=True, note=_NOTE), lambda http: True)
        listening = socket.create_server(("127.0.0.1", port))  # a client that comes too early waits for an answer
        server = uvicorn.Server(uvicorn.Config(api, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve([listening]))
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        await serving
        await store.close()


async def fill(store: RedisStore, now: float) -> None:
    """Write a month that ends now."""
    drawn = np.random.default_rng(7)
    ledger = RedisLedger(store, _CONFIG.ledger)
    number = 0
    for start in range(int(now) - _DAYS * 24 * 3600, int(now), 6 * 3600):
        records = sorted(_records(drawn, start, min(start + 6 * 3600, now), now), key=lambda record: record.time)
        for i in range(0, len(records), 500):
            number += 1
            await ledger.write("generated", number, records[i : i + 500])
            await _call(store, records[i : i + 500], drawn)
    ends = now + 55
    await store.run(lambda client: client.hset(breakers_key("mid"), "claude-haiku-4-5", ends))
    await _check(store, drawn)


def _records(drawn: np.random.Generator, start: float, end: float, now: float) -> Iterator[Record]:
    """Draw the requests of some hours: more by day than by night, and more each week."""
    hour_of_day = (start / 3600 + 3) % 24
    growth = 1 - 0.5 * (now - start) / (_DAYS * 24 * 3600)
    rhythm = 1 + 0.7 * np.sin((hour_of_day - 8) / 24 * 2 * np.pi)
    for at in drawn.uniform(start, end, drawn.poisson(_A_DAY * growth * rhythm * (end - start) / 86400)):
        record = _request(drawn, float(at), 1 - 0.25 * (now - start) / (_DAYS * 24 * 3600))
        yield record
        if record.reason == "verified" and drawn.random() < 0.01:
            yield audited(float(at), "cached answer", record.tenant, "top", record.without_usd)


def _request(drawn: np.random.Generator, at: float, warmth: float) -> Record:
    """Draw a request. `warmth`: how full the cache is, to 1."""
    usage = Usage(int(drawn.lognormal(7.3, 0.7)), int(drawn.lognormal(5.8, 0.7)))
    without = cost_usd(usage, _CONFIG.baseline_price(), _day(at))
    common: dict[str, Any] = {
        "time": round(at, 6),
        "request_id": f"{drawn.integers(2**48):012x}",
        "tenant": _one(drawn, _TENANTS),
        "endpoint": "/v1/chat/completions",
        "without_usd": round(without, 9),
    }
    stages = {"exact": float(drawn.lognormal(-7.2, 0.3))}
    what = drawn.random()
    if what < 0.006:
        error = _one(drawn, {"upstream_error": 0.5, "rate_limit_exceeded": 0.3, "client_gone": 0.2})
        status = {"upstream_error": 503, "rate_limit_exceeded": 429, "client_gone": 499}[error]
        common["without_usd"] = 0.0
        return Record(**common, error=error, status=status, finished=False, latency_s=float(drawn.lognormal(-1, 1)))
    if what < 0.40 * warmth:
        reason = _one(drawn, _HITS)
        if reason != "exact":
            stages["semantic"] = float(drawn.lognormal(-4.3, 0.3))
        similarity = 1.0 if reason == "exact" else round(float(drawn.uniform(0.9, 0.995)), 4)
        hit: dict[str, Any] = {
            "cache": "hit",
            "reason": reason,
            "similarity": similarity,
            "route": "cache",
            "tier": "cache",
        }
        return Record(**common, **hit, model="gpt-4o", stages=stages, latency_s=sum(stages.values()))
    tier = _one(drawn, {name: share for name, (_, _, share) in _ROUTES.items()})
    low, high, _ = _ROUTES[tier]
    bypass = drawn.random() < 0.15
    stages |= {} if bypass else {"semantic": float(drawn.lognormal(-4.3, 0.3))}
    stages |= {"route": float(drawn.lognormal(-4.6, 0.3)), "model": float(drawn.lognormal(np.log(_MODEL_S[tier]), 0.5))}
    models = list(next(one for one in _CONFIG.tiers if one.name == tier).models())
    model = models[-1] if drawn.random() < 0.12 else models[0]
    return Record(
        **common,
        tier=tier,
        model=model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost_usd=round(cost_usd(usage, _CONFIG.prices()[model], _day(at)), 9),
        cache="bypass" if bypass else "miss",
        reason=_one(drawn, _BYPASSES if bypass else _MISSES),
        score=round(float(drawn.uniform(low, high)), 3),
        route="score",
        attempts=1,
        stages=stages,
        latency_s=sum(stages.values()),
    )


async def _call(store: RedisStore, records: list[Record], drawn: np.random.Generator) -> None:
    """Count the calls behind records, and some that failed."""
    by_time: dict[int, list[Record]] = {}
    for record in records:
        if record.tier in ("mid", "top"):
            by_time.setdefault(int(record.time // SLOT_S) * SLOT_S, []).append(record)
    for start, answered in by_time.items():
        for tier in ("mid", "top"):
            counts = CallCounts(tier, store, now=partial(float, start))
            for record in answered:
                if record.tier == tier:
                    shaky = record.model == "claude-haiku-4-5"
                    if drawn.random() < (0.12 if shaky else 0.008):
                        counts.record(record.model, _one(drawn, {"timeout": 0.5, "rate limit": 0.3, "failed": 0.2}))
                    counts.record(record.model, "ok")
            await counts.tell()


async def _check(store: RedisStore, drawn: np.random.Generator) -> None:
    bounds = RedisBounds(store, _CONFIG.cache.max_error_rate(), _CONFIG.cache.audit.confidence)
    for number in range(420):
        await bounds.add(EVERYWHERE, "hits", number % 210 != 100, everywhere=False)
    quality = RedisQuality(store, _CONFIG.quality_kept(), _CONFIG.routing.quality.confidence)
    for tier, checks, worse in (("local", 260, 0.045), ("mid", 150, 0.03)):
        for _ in range(checks):
            await quality.draw(down=True)
            await quality.add(tier, bool(drawn.random() > worse), drawn_at={})
    for _ in range(70):
        await quality.draw(down=False)


def _one(drawn: np.random.Generator, shares: dict[str, float]) -> str:
    return str(drawn.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


def _day(time: float) -> date:
    return datetime.fromtimestamp(time, UTC).date()
