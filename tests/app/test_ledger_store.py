"""The ledger in a real Redis: sums that equal the records, several writers, restarts, kills, budgets, exports."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from app.api import build_api
from app.api_ledger import Books
from app.benchmark.redis_cluster import redis_cluster
from app.cache import RedisConfig, RedisStore
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError, ConfigError
from app.ledger import BudgetConfig, LedgerConfig
from app.ledger.budgets import Budgets
from app.ledger.export import export
from app.ledger.record import Record, audited
from app.ledger.rollup import periods_of, slot_of
from app.ledger.store import RedisLedger
from app.ledger.summary import summary
from app.ledger.writer import LedgerWriter
from app.operate_ledger import ledger_export, ledger_summary
from app.schema import PartStatus
from app.tenants import Tenants, key_hash
from tests.fakes import CONFIG, FakeExactCache, FakeProvider, controller, serve_file

pytestmark = pytest.mark.redis
NOW = time.time()
ADMIN, ACME, GLOBEX = ({"authorization": f"Bearer {key}"} for key in ("root", "a", "g"))
TENANTS = Tenants({key_hash("root"): "ops", key_hash("a"): "acme", key_hash("g"): "globex"}, None, {key_hash("root")})


@pytest.fixture
async def store(redis: EmbeddedRedis, client: Redis) -> AsyncIterator[RedisStore]:
    store = RedisConfig(timeout_s=5).build(url=redis.url)
    yield store
    await store.close()


@pytest.fixture
def ledger(store: RedisStore) -> RedisLedger:
    return RedisLedger(store, LedgerConfig())


def record(number: int = 0, tenant: str = "acme", time: float = NOW, **fields: Any) -> Record:
    plain = {"tier": "mid", "model": "medium", "cache": "miss", "reason": "no candidate", "route": "score"}
    return Record(request_id=f"{number}", time=time, tenant=tenant, **{"cost_usd": 0.1, **plain, **fields})


async def total(ledger: RedisLedger, tenant: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = summary(await ledger.counted(NOW - 3600, NOW + 3600, tenant), None)["total"]
    return found


async def ids(ledger: RedisLedger) -> list[str]:
    return [record.request_id async for _, record in ledger.records(NOW - 3600, NOW + 3600)]


async def test_what_is_written_is_read_as_it_was(ledger: RedisLedger) -> None:
    kept = record(1, stages={"exact": 0.001, "model": 0.5}, score=0.25, similarity=0.9, latency_s=0.501, schema="valid")
    await ledger.write("w", 1, [kept])
    assert [found async for _, found in ledger.records(NOW - 1, NOW + 1)] == [kept]
    assert await ledger.recent(10, NOW) == [kept]


async def test_the_sums_equal_the_records_with_two_writers_at_once(ledger: RedisLedger) -> None:
    writers = [LedgerWriter(ledger, False, 10_000) for _ in range(2)]
    for number in range(1000):
        writers[number % 2].put(record(number, cost_usd=round(number * 1e-7, 9), prompt_tokens=number))
        if number % 300 == 0:
            await asyncio.gather(*(writer.flush() for writer in writers))
    await asyncio.gather(*(writer.close() for writer in writers))
    found = [found async for _, found in ledger.records(NOW - 1, NOW + 1)]
    figures = await total(ledger)
    assert sorted(int(found.request_id) for found in found) == list(range(1000))
    assert figures["requests"] == len(found) == 1000
    assert figures["prompt_tokens"] == sum(found.prompt_tokens for found in found) == 499_500
    assert figures["cost_usd"] == pytest.approx(sum(found.cost_usd for found in found), abs=1e-12)
    assert await ledger.spent(["acme"], NOW) == {"acme": (round(figures["cost_usd"] * 1e9),) * 2}


async def test_whole_days_are_read_as_such_and_give_the_same_sums(ledger: RedisLedger) -> None:
    noon = NOW - NOW % 86400 - 4 * 86400 + 12 * 3600
    for number in range(60):
        await ledger.write("w", number + 1, [record(number, time=noon + 3600 * number)])
    start, end = noon - 3600, noon + 50 * 3600
    by_hour, by_day = [await ledger.counted(start, end, hourly=hourly) for hourly in (True, False)]
    assert (len(by_hour), len(by_day)) == (50, 12 + 1 + 14)
    assert summary(by_hour, "day") == summary(by_day, "day")
    assert summary(by_day, None)["total"]["requests"] == 50


async def test_a_batch_that_comes_twice_is_taken_once(ledger: RedisLedger) -> None:
    assert await ledger.write("a", 1, [record(1)])
    assert not await ledger.write("a", 1, [record(1)])
    assert await ledger.write("b", 1, [record(2)])
    assert await ledger.write("a", 2, [record(3)])
    assert (await ids(ledger), (await total(ledger))["requests"]) == (["1", "2", "3"], 3)


class LosingStore(RedisStore):
    """A store whose every second answer is lost on its way back."""

    commands = 0

    async def run(self, command: Any) -> Any:
        found = await super().run(command)
        LosingStore.commands += 1
        if LosingStore.commands % 2:
            raise CacheUnavailableError("the answer was lost")
        return found


async def test_answers_that_are_lost_lead_to_no_second_record(redis: EmbeddedRedis, ledger: RedisLedger) -> None:
    plain = RedisConfig(timeout_s=5).build(url=redis.url)
    losing = LosingStore(plain._client, plain._limits, plain._failfast)
    writer = LedgerWriter(RedisLedger(losing, LedgerConfig()), False, 10_000, flush_s=0.001)
    for number in range(500):
        writer.put(record(number))
    await writer.close()
    assert await ids(ledger) == [str(number) for number in range(500)]
    assert (await total(ledger))["requests"] == 500
    await plain.close()


async def test_audits_are_on_the_bill_and_neither_requests_nor_the_tenants_budget(ledger: RedisLedger) -> None:
    await ledger.write("w", 1, [record(1), audited(NOW, "routed answer", "acme", "mid", 0.5)])
    figures = await total(ledger)
    assert (figures["requests"], figures["audits"], figures["audit_cost_usd"]) == (1, 1, 0.5)
    assert await ledger.spent(["acme", "globex"], NOW) == {"acme": (10**8, 10**8), "globex": (0, 0)}


async def test_the_day_keeps_its_latest_records_and_all_of_its_sums(store: RedisStore) -> None:
    ledger = RedisLedger(store, LedgerConfig(max_records_per_day=100))
    for number in range(10):
        await ledger.write("w", number + 1, [record(100 * number + i) for i in range(100)])
    left = await ids(ledger)
    assert 100 <= len(left) < 300
    assert left[-1] == "999"
    assert (await total(ledger))["requests"] == 1000


async def test_everything_expires(ledger: RedisLedger, client: Redis) -> None:
    await ledger.write("w", 1, [record(1)])
    keys = [key.decode() async for key in client.scan_iter("tw:{ledger}:*")]
    kept = {key.split(":")[2]: await client.ttl(key) for key in keys}
    assert set(kept) == {"r", "h", "total", "spent", "w"}
    assert 30 * 86400 < kept["r"] <= 31 * 86400 + 60
    assert 400 * 86400 < kept["total"] <= 401 * 86400 + 60
    slot, *longer = [await client.ttl(f"tw:{{ledger}}:h:{period}") for period in periods_of(slot_of(NOW))]
    assert 0 < slot <= 2 * 3600 + 60 < 400 * 86400 < min(longer) <= max(longer) <= 401 * 86400 + 60
    assert min(kept.values()) > 0


async def test_all_of_it_works_on_a_cluster(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as cluster:
        store = RedisConfig(timeout_s=5, cluster=True).build(url=cluster.url)
        ledger = RedisLedger(store, LedgerConfig())
        await ledger.write("w", 1, [record(1), record(2, "globex")])
        assert await ids(ledger) == ["1", "2"]
        assert (await total(ledger, "globex"))["requests"] == 1
        assert (await ledger.spent(["acme"], NOW))["acme"] == (10**8, 10**8)
        await store.close()


async def test_it_outlives_a_restart_of_redis_and_what_came_meanwhile_is_written_after_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    with server:
        store = RedisConfig(timeout_s=1, retry_after_s=0.01).build(url=server.url)
        ledger = RedisLedger(store, LedgerConfig())
        writer = LedgerWriter(ledger, False, 10_000, flush_s=0.01)
        writer.put(record(1))
        assert await writer.flush()
        server.stop()
        writer.put(record(2))
        assert not await writer.flush()
        await asyncio.to_thread(server.start)
        await writer.close()
        assert (await ids(ledger), (await total(ledger))["requests"]) == (["1", "2"], 2)
        await store.close()


_KILLED = """
    import asyncio, sys, time
    from app.cache import RedisConfig
    from app.ledger import LedgerConfig
    from app.ledger.record import Record
    from app.ledger.store import RedisLedger
    from app.ledger.writer import LedgerWriter

    async def main():
        store = RedisConfig(timeout_s=5).build(url=sys.argv[1])
        writer = LedgerWriter(RedisLedger(store, LedgerConfig()), False, 10_000)
        for number in range(100_000):
            writer.put(Record(time=time.time(), request_id=str(number), tenant="acme"))
            print(number, time.monotonic(), flush=True)
            await asyncio.sleep(0.002)

    asyncio.run(main())
"""


def _killed_after_seconds(url: str) -> list[tuple[int, float]]:
    """Run a replica and kill it; return the numbers of its records, and when by its own clock it made them."""
    said: list[tuple[int, float]] = []
    command = [sys.executable, "-c", textwrap.dedent(_KILLED), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            number, at = line.split()
            said.append((int(number), float(at)))
            if said[-1][1] - said[0][1] > 2.5:
                process.kill()
                break
    return said


async def test_a_replica_that_is_killed_takes_a_second_of_records_with_it_at_most(
    redis: EmbeddedRedis, ledger: RedisLedger
) -> None:
    said = await asyncio.to_thread(_killed_after_seconds, redis.url)
    written = {int(number) for number in await ids(ledger)}
    older = {number for number, at in said if at < said[-1][1] - 1}
    assert len(older) > 100
    assert older <= written
    assert (await total(ledger))["requests"] == len(written)


async def test_a_budget_is_counted_over_all_replicas_and_refuses_after_a_restart(ledger: RedisLedger) -> None:
    budget = {"acme": BudgetConfig(usd_per_day=0.25)}
    before = Budgets(budget, ledger)
    first = await before.of("acme")
    for writer in ("a", "b", "c"):
        await ledger.write(writer, 1, [record(1)])
    after = await Budgets(budget, ledger).of("acme")
    assert (first and first.state, after and after.state) == ("ok", "refuse")


@pytest.fixture
async def http(ledger: RedisLedger) -> AsyncIterator[httpx2.AsyncClient]:
    """The whole API over the real ledger, that has a record of every request when its response is here."""
    writer = LedgerWriter(ledger, True, 10_000)
    providers = {name: FakeProvider(model) for name, model in (("local", "small"), ("mid", "medium"), ("top", "large"))}
    gateway = controller(FakeExactCache(), providers, score=0.5, on_end=writer.add)

    async def parts() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    async def written(response: httpx2.Response) -> None:
        await response.aread()
        await gateway.drain()
        await writer.flush()

    api = build_api(gateway, CONFIG, TENANTS, parts, metrics, books=Books(ledger, None, writer.add, writer.put))
    transport = httpx2.ASGITransport(app=api, raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://gateway", event_hooks={"response": [written]}
    ) as client:
        yield client
    await writer.close()


async def ask(http: httpx2.AsyncClient, text: str, headers: dict[str, str], **fields: Any) -> httpx2.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    return await http.post("/v1/chat/completions", json=body, headers=headers)


async def test_every_kind_of_request_is_one_record_and_the_summary_adds_them_up(http: httpx2.AsyncClient) -> None:
    for text, fields in (
        ("one", {}),
        ("one", {}),
        ("two", {"stream": True}),
        ("two", {"stream": True}),
        ("three", {"temperature": 1.5}),
        ("four", {"model": "gpt-17"}),
    ):
        await ask(http, text, ACME, **fields)
    await http.post("/v1/messages", json={"model": "auto", "max_tokens": 5, "messages": []}, headers=ACME)
    await ask(http, "five", {"authorization": "Bearer stranger"})
    shown = (await http.get("/v1/ledger/summary?by=decision", headers=ADMIN)).json()
    figures = shown["total"]
    assert figures["requests"] == 7
    assert figures["decisions"] == {"hit": 2, "miss": 2, "bypass": 1}
    assert figures["hit_rate"] == 0.4
    assert figures["errors"] == {"model_not_found": 1, "invalid_request_error": 1}
    assert figures["cost_usd"] == pytest.approx(3 * 0.0002)
    assert figures["saved_usd"] == pytest.approx(5 * 0.002 - 3 * 0.0002)
    assert {row["decision"]: row["requests"] for row in shown["data"]} == {"bypass": 1, "hit": 2, "miss": 2, "none": 2}
    assert figures["latency"]["total"]["count"] == 7


async def test_a_tenant_sees_its_own_figures_alone(http: httpx2.AsyncClient) -> None:
    await ask(http, "one", ACME)
    await ask(http, "one", GLOBEX)
    everyone = (await http.get("/v1/ledger/summary?by=tenant", headers=ADMIN)).json()
    own = (await http.get("/v1/ledger/summary?by=tenant", headers=ACME)).json()
    one = (await http.get("/v1/ledger/summary?tenant=globex", headers=ADMIN)).json()
    assert [row["tenant"] for row in everyone["data"]] == ["acme", "globex"]
    assert ([row["tenant"] for row in own["data"]], own["tenant"], own["total"]["requests"]) == (["acme"], "acme", 1)
    assert (one["tenant"], one["total"]["requests"]) == ("globex", 1)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("summary?tenant=globex", ACME, 403),
        ("recent", ACME, 403),
        ("summary", {}, 401),
        ("summary?by=week", ADMIN, 400),
        ("compare?tenant=globex", ACME, 403),
        ("compare?from=yesterday", ADMIN, 400),
        ("summary?from=yesterday", ADMIN, 400),
        ("recent?limit=many", ADMIN, 400),
    ],
)
async def test_what_may_not_be_asked_is_refused(
    http: httpx2.AsyncClient, path: str, headers: dict[str, str], status: int
) -> None:
    assert (await http.get(f"/v1/ledger/{path}", headers=headers)).status_code == status


async def test_the_sides_of_a_canary_are_compared_for_an_operator_and_for_a_tenant(
    http: httpx2.AsyncClient, ledger: RedisLedger
) -> None:
    await ledger.write("w", 1, [record(n, arm=arm) for arm in ("stable", "canary") for n in range(3)])
    await ledger.write("w", 2, [record(9, "globex", arm="canary", cost_usd=0.4), record(10)])
    everyone = (await http.get("/v1/ledger/compare", headers=ADMIN)).json()
    own = (await http.get("/v1/ledger/compare", headers=ACME)).json()
    assert [everyone["arms"][arm]["requests"] for arm in ("stable", "canary")] == [3, 4]
    assert [own["arms"][arm]["requests"] for arm in ("stable", "canary")] == [3, 3]
    assert own["figures"]["cost_usd_per_request"]["canary"] == pytest.approx([0.1, 0.1, 0.1])
    rows = (await http.get("/v1/ledger/summary?by=arm", headers=ADMIN)).json()["data"]
    assert {row["arm"]: row["requests"] for row in rows} == {"none": 1, "stable": 3, "canary": 4}


async def test_groups_from_before_there_were_canaries_are_still_read(ledger: RedisLedger, client: Redis) -> None:
    await ledger.write("w", 1, [record(1)])
    (group,) = await client.smembers(f"tw:{{ledger}}:h:{slot_of(NOW)}")
    assert group == b'["request","acme","mid","medium","miss",""]'
    await ledger.write("w", 2, [record(2, arm="stable")])
    assert (await total(ledger))["requests"] == 2


async def test_the_latest_requests_say_why_and_never_what(http: httpx2.AsyncClient) -> None:
    for text in ("my secret words", "my secret words", "other secret words"):
        await ask(http, text, {**ACME, "x-request-id": text.split()[0]})
    response = await http.get("/v1/ledger/recent?limit=2", headers=ADMIN)
    last, hit = response.json()["data"]
    assert (last["request_id"], last["cache"], last["route"]) == ("other", "miss", "score")
    assert (hit["request_id"], hit["reason"], hit["tier"]) == ("my", "exact", "cache")
    assert set(last["stages"]) == {"exact", "semantic", "route", "model"}
    assert "secret" not in response.text


async def test_without_a_ledger_it_says_what_that_takes() -> None:
    async def parts() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    api = build_api(controller(None, {}), CONFIG, TENANTS, parts, metrics)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api), base_url="http://gateway") as http:
        response = await http.get("/v1/ledger/summary", headers=ADMIN)
    assert (response.status_code, "takes `redis`" in response.json()["error"]["message"]) == (404, True)


@pytest.fixture
async def config(redis: EmbeddedRedis, ledger: RedisLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose ledger has 600 records of a tenant and one of another, a day older."""
    monkeypatch.setenv("TIERWISE_REDIS_URL", redis.url)
    await ledger.write("w", 1, [record(n, stages={"model": 0.5}, score=0.25) for n in range(600)])
    await ledger.write("w", 2, [record(600, "globex", NOW - 86400, finished=False, error="client_gone")])
    return serve_file(tmp_path, redis={})


async def test_the_command_sums_up(config: Path) -> None:
    figures = await asyncio.to_thread(ledger_summary, config, None, None, "tenant", None)
    assert [(row["tenant"], row["requests"], row["cost_usd"]) for row in figures["data"]] == [("acme", 600, 60.0)]


async def test_records_are_exported_to_parquet(config: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = tmp_path / "ledger.parquet"
    assert await asyncio.to_thread(ledger_export, config, str(file), None, None) == 600
    table = pq.read_table(file)
    rows = table.to_pylist()
    assert (len({row["entry"] for row in rows}), rows[0]["model_s"], rows[0]["exact_s"]) == (600, 0.5, None)
    assert (rows[0]["tenant"], rows[0]["score"], rows[0]["finished"]) == ("acme", 0.25, True)
    assert rows[0]["time"].timestamp() == pytest.approx(NOW, abs=1e-5)


async def test_records_are_exported_to_sql_once_however_often(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("WAREHOUSE", url)
    for target, count in ((url, 600), ("env:WAREHOUSE", 600)):
        assert await asyncio.to_thread(ledger_export, config, target, None, None) == count
    two_days_ago = f"{time.strftime('%Y-%m-%d', time.gmtime(NOW - 2 * 86400))}"
    assert await asyncio.to_thread(ledger_export, config, url, two_days_ago, None) == 601
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        rows = database.execute(
            "SELECT tenant, count(*), sum(cost_usd), max(error) FROM tierwise_ledger GROUP BY 1 ORDER BY 1"
        ).fetchall()
    database.close()
    assert rows == [("acme", 600, pytest.approx(60), ""), ("globex", 1, 0.1, "client_gone")]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ledger.csv", "ends in `.parquet`, or a database's URL"),
        ("/no/such/folder/ledger.parquet", "cannot export to"),
        ("sqlite:////no/such/folder/ledger.db", "unable to open database file"),
        ("nosuch://host/db", "nosuch"),
        ("env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set"),
    ],
)
async def test_an_export_that_has_nowhere_to_go_says_why(config: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await asyncio.to_thread(ledger_export, config, target, None, None)


async def test_nothing_to_export_is_an_empty_file(ledger: RedisLedger, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert await export(ledger.records(NOW, NOW + 1), str(tmp_path / "none.parquet")) == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
