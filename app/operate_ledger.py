"""What an operator does with the ledger of a running gateway from the command line."""

from __future__ import annotations

import os
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from app.cache.store import RedisStore
from app.errors import ConfigError
from app.ledger import LedgerConfig
from app.ledger.compare import compared
from app.ledger.export import export
from app.ledger.period import period, said
from app.ledger.store import RedisLedger
from app.ledger.summary import dimension, summary
from app.operate import with_store

_PARAMS = ("--from", "--until")


def ledger_summary(
    config_file: Path, start: str | None, end: str | None, by: str | None, tenant: str | None
) -> dict[str, Any]:
    """Sum up a period.

    Raises:
        ConfigError: The configuration has no Redis, or its embedded one does not run.
        CacheUnavailableError: Redis did not answer.
        InvalidRequestError: The times are none.
    """
    of = dimension(by)
    since, until = period(start, end, time.time(), _PARAMS)

    async def read(store: RedisStore) -> dict[str, Any]:
        ledger = RedisLedger(store, LedgerConfig())
        return summary(await ledger.counted(since, until, tenant, hourly=of == "hour"), of)

    return {"from": said(since), "to": said(until), "tenant": tenant, **with_store(config_file, read)}


def ledger_comparison(config_file: Path, start: str | None, end: str | None, tenant: str | None) -> dict[str, Any]:
    """Compare the canary of a period with the stable side. Raises as the summary does."""
    since, until = period(start, end, time.time(), _PARAMS)

    async def read(store: RedisStore) -> dict[str, Any]:
        return compared(await RedisLedger(store, LedgerConfig()).counted(since, until, tenant))

    return {"from": said(since), "to": said(until), "tenant": tenant, **with_store(config_file, read)}


def ledger_export(config_file: Path, target: str, start: str | None, end: str | None) -> int:
    """Write the records of a period to a Parquet file or to a database; return how many. Raises as the summary does.

    Args:
        target: As `export` in `app/ledger/export.py` has it, or `env:NAME`, a variable that holds it.
    """
    since, until = period(start, end, time.time(), _PARAMS)
    if target.startswith("env:"):
        name = target.removeprefix("env:")
        target = os.environ.get(name, "")
        if not target:
            raise ConfigError(f"{name} is not set")

    async def write(store: RedisStore) -> int:
        async with aclosing(RedisLedger(store, LedgerConfig()).records(since, until)) as records:
            return await export(records, target)

    return with_store(config_file, write)
