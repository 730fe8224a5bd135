"""The ledger in Redis: streams of records, and their sums.

| key                           | type   | holds                                                                   |
|-------------------------------|--------|-------------------------------------------------------------------------|
| `tw:{ledger}:r:DAY`           | stream | each record of that day (UTC) as JSON, `ledger.max_records_per_day` at most |
| `tw:{ledger}:h:PERIOD`        | set    | the groups that five minutes, an hour or a day have counters of, as JSON |
| `tw:{ledger}:h:PERIOD:GROUP`  | hash   | the counters of `app/ledger/rollup.py`                                  |
| `tw:{ledger}:total`           | hash   | all there ever was: `n` requests, `cost`, `without`, and the time `since`|
| `tw:{ledger}:spent:DAY`, `:MONTH` | hash | TENANT to billionths of a dollar that its requests cost              |
| `tw:{ledger}:w:WRITER`        | string | the last batch of a writer that was taken                               |

The braces keep all of it on one shard of a cluster, so that a batch is one script: its records, their sums and what was
spent are written together or not at all, and a batch that is sent again, since its answer was lost, is not taken twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from pydantic import PositiveInt

from app.cache.store import RedisStore
from app.ledger.record import Record, nano, usd
from app.ledger.rollup import SLOTS_KEPT_S, Group, day_of, hour_of, periods_of, rolled_up
from app.ledger.summary import Counted
from app.section import Section

T = TypeVar("T")
_PREFIX = "tw:{ledger}:"
_TOTAL = f"{_PREFIX}total"
_DAY_S = 24 * 3600
_BLOCK = 256  # records that are read at once,
_HASHES = 32  # and hashes: no other request waits long for them
_records = msgspec.json.Decoder(Record)
_groups = msgspec.json.Decoder(tuple[str, ...])  # without an arm, in groups from where no canary ran
_TAKE_ONCE = """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
for _, command in ipairs(cmsgpack.unpack(ARGV[2])) do redis.call(unpack(command)) end
return 1
"""


class LedgerConfig(Section):
    """What every request leaves: a record, and its part in the sums of its hour. It takes Redis.

    Attributes:
        enabled: Whether anything is written.
        keep_days: How long records are kept, each of them about 0.3 KB of Redis's memory,
        max_records_per_day: and how many of a day, the latest; `tierwise ledger export` takes them elsewhere.
        keep_sums_days: How long the sums by hour and by day are kept.
        texts: Whether records hold the last user turn and the answer.
        max_pending: Records of a replica that wait while Redis is away; what comes beyond them is counted and dropped.
    """

    enabled: bool = True
    keep_days: PositiveInt = 30
    max_records_per_day: PositiveInt = 100_000
    keep_sums_days: PositiveInt = 400
    texts: bool = False
    max_pending: PositiveInt = 10_000


class Total(NamedTuple):
    """All requests since a Unix time, and the checks that the gateway made for itself."""

    since: int
    requests: int
    cost_usd: float
    without_usd: float


class RedisLedger:
    """Writes batches of records and reads sums; every method raises CacheUnavailableError if Redis does not answer."""

    def __init__(self, store: RedisStore, config: LedgerConfig) -> None:
        self._store = store
        self._config = config

    async def write(self, writer: str, number: int, records: Sequence[Record]) -> bool:
        """Take a batch: its records, their sums, and what was spent.

        Args:
            writer: Who writes;
            number: its batches are numbered from 1. One that is sent again must be the same.

        Returns:
            False if it was taken before.
        """
        commands = [*self._adding(records), *self._summing(records), *_spending(records), *self._totalling(records)]
        keys = [f"{_PREFIX}w:{writer}", *dict.fromkeys(command[1] for command in commands)]
        packed = msgspec.msgpack.encode(commands)
        return bool(
            await self._store.run(lambda client: client.eval(_TAKE_ONCE, len(keys), *keys, str(number), packed))
        )

    async def spent(self, tenants: Collection[str], time: float) -> dict[str, tuple[int, int]]:
        """Return the billionths of a dollar that each tenant has spent in the day and in the month of a Unix time."""
        if not tenants:
            return {}
        names = list(tenants)

        def read(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            for period in _periods(time):
                pipe.hmget(f"{_PREFIX}spent:{period}", names)
            return pipe.execute()

        day, month = await self._store.run(read)
        return {name: (int(d or 0), int(m or 0)) for name, d, m in zip(names, day, month, strict=True)}

    async def counted(
        self, start: float, end: float, tenant: str | None = None, *, hourly: bool = False
    ) -> list[Counted]:
        """Return the counters from the hour of `start` to before `end`, of one tenant or of all.

        Args:
            hourly: Hour by hour; else whole days at once, where there are any.
        """
        hours = list(_hours(start, end))
        return await self.counters(hours if hourly else _in_days(hours), tenant)

    async def counters(self, periods: Sequence[str], tenant: str | None = None) -> list[Counted]:
        """Return the counters of periods by their names: days, hours, and five minutes of the last two hours."""
        found: list[tuple[str, Group]] = []
        for block in _blocks(periods):
            sets = await self._piped("smembers", [f"{_PREFIX}h:{period}" for period in block])
            for period, groups in zip(block, sets, strict=True):
                found += [(period, Group(*_groups.decode(raw))) for raw in groups]
        counted: list[Counted] = []
        for items in _blocks(sorted(item for item in found if tenant in (None, item[1].tenant))):
            hashes = await self._piped("hgetall", [_counters_name(period, group) for period, group in items])
            for (period, group), counters in zip(items, hashes, strict=True):
                counted.append((period, group, {name.decode(): int(count) for name, count in counters.items()}))
        return counted

    async def total(self) -> Total | None:
        """Return what all requests ever cost; None before the first."""
        found = await self._store.run(lambda client: client.hgetall(_TOTAL))
        if not found:
            return None
        count, cost, without, since = (int(found.get(name, 0)) for name in (b"n", b"cost", b"without", b"since"))
        return Total(since, count, usd(cost), usd(without))

    async def recent(self, count: int, time: float, tenant: str | None = None) -> list[Record]:
        """Return the latest records, the last first, of the day of a Unix time and the one before."""
        found: list[Record] = []
        for day in (day_of(time), day_of(time - _DAY_S)):
            async with aclosing(self._stream(day, latest_first=True)) as rows:
                async for _, record in rows:
                    if len(found) == count:
                        return found
                    if tenant in (None, record.tenant):
                        found.append(record)
        return found

    async def records(self, start: float, end: float) -> AsyncGenerator[tuple[str, Record], None]:
        """Yield the records from `start` to before `end`, each with a name of its own, as they were written."""
        for day in dict.fromkeys(map(_day, _hours(start, end))):
            async with aclosing(self._stream(day)) as rows:
                async for entry, record in rows:
                    if start <= record.time < end:
                        yield f"{day}/{entry}", record

    async def _stream(self, day: str, latest_first: bool = False) -> AsyncGenerator[tuple[str, Record], None]:
        """Yield the records of a day with the names of their entries, block by block."""
        name = f"{_PREFIX}r:{day}"
        after, last = ("+", "-") if latest_first else ("-", "+")
        while True:
            rows = await self._store.run(partial(_block, name, after, last, latest_first))
            for entry, fields in rows:
                yield entry.decode(), _records.decode(fields[b"r"])
            if len(rows) < _BLOCK:
                return
            after = f"({rows[-1][0].decode()}"

    def _adding(self, records: Sequence[Record]) -> Iterator[list[str]]:
        most, days = str(self._config.max_records_per_day), {}
        for record in records:
            name = f"{_PREFIX}r:{day_of(record.time)}"
            days[name] = record.time
            yield ["XADD", name, "MAXLEN", "~", most, "*", "r", msgspec.json.encode(record).decode()]
        for name, time in days.items():
            yield _expiring(name, time, (self._config.keep_days + 1) * _DAY_S)

    def _summing(self, records: Sequence[Record]) -> Iterator[list[str]]:
        kept_s = (self._config.keep_sums_days + 1) * _DAY_S
        for (slot, group), counters in rolled_up(records).items():
            time = datetime.strptime(slot, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC).timestamp()
            for period in periods_of(slot):
                names = (f"{_PREFIX}h:{period}", _counters_name(period, group))
                yield ["SADD", names[0], _written(group)]
                for counter, count in counters.items():
                    if count:
                        yield ["HINCRBY", names[1], counter, str(count)]
                for name in names:
                    yield _expiring(name, time, SLOTS_KEPT_S if period == slot else kept_s)

    def _totalling(self, records: Sequence[Record]) -> Iterator[list[str]]:
        if not records:
            return
        yield ["HSETNX", _TOTAL, "since", str(int(records[0].time))]
        sums = {
            "n": sum(record.kind == "request" for record in records),
            "cost": sum(nano(record.cost_usd) for record in records),
            "without": sum(nano(record.without_usd) for record in records),
        }
        for name, count in sums.items():
            yield ["HINCRBY", _TOTAL, name, str(count)]
        yield _expiring(_TOTAL, records[-1].time, (self._config.keep_sums_days + 1) * _DAY_S)

    async def _piped(self, command: str, names: Sequence[str]) -> list[Any]:
        def read(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            for name in names:
                getattr(pipe, command)(name)
            return pipe.execute()

        return list(await self._store.run(read))


def _spending(records: Sequence[Record]) -> Iterator[list[str]]:
    spent: Counter[tuple[str, str]] = Counter()
    for record in records:
        if record.kind == "request":  # a check is the operator's own
            for period in _periods(record.time):
                spent[period, record.tenant] += nano(record.cost_usd)
    for (period, tenant), nanos in spent.items():
        name = f"{_PREFIX}spent:{period}"
        yield ["HINCRBY", name, tenant, str(nanos)]
        yield ["EXPIRE", name, str(40 * _DAY_S)]


def _block(name: str, after: str, last: str, latest_first: bool, client: Any) -> Any:
    return (client.xrevrange if latest_first else client.xrange)(name, after, last, _BLOCK)


def _periods(time: float) -> tuple[str, str]:
    """Name the day and the month (UTC) of a Unix time."""
    day = day_of(time)
    return day, day[:7]


def _expiring(name: str, time: float, kept_s: int) -> list[str]:
    """Keep a key for so long after its last record."""
    return ["EXPIREAT", name, str(int(time) + kept_s)]


def _hours(start: float, end: float) -> Iterator[str]:
    time = start - start % 3600
    while time < end:
        yield hour_of(time)
        time += 3600


def _day(hour: str) -> str:
    return hour.partition("T")[0]


def _in_days(hours: Sequence[str]) -> list[str]:
    """Put the day in place of its hours, where all of them are there."""
    in_day = Counter(map(_day, hours))
    return list(dict.fromkeys(_day(hour) if in_day[_day(hour)] == 24 else hour for hour in hours))


def _blocks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for i in range(0, len(items), _HASHES):
        yield items[i : i + _HASHES]


def _written(group: Group) -> str:
    return msgspec.json.encode(tuple(group) if group.arm else tuple(group)[:-1]).decode()


def _counters_name(period: str, group: Group) -> str:
    return f"{_PREFIX}h:{period}:{_written(group)}"
