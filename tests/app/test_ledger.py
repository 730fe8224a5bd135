"""The record of every kind of request, its sums, and the writer; the ledger here is a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.controller import TrafficController
from app.errors import CacheUnavailableError, ContextLengthError, InvalidRequestError, UnavailableError, UpstreamError
from app.ledger.period import period, said
from app.ledger.record import Record, answered, audited, refused
from app.ledger.rollup import Group, bucket, periods_of, quantile, rolled_up, slot_of
from app.ledger.summary import Counted, dimension, summary
from app.ledger.writer import LedgerWriter
from app.schema import Outcome
from tests.fakes import CONFIG, FakeExactCache, FakeProvider, GatedProvider, chat, controller
from tests.waiting import until

Providers = dict[str, FakeProvider]
NOON = 1_780_000_000.0 - 1_780_000_000.0 % 86400 + 12 * 3600


class FakeLedger:
    """A Ledger in memory; `error` is raised once a batch has come, or has been taken if `loses_answers`."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.error: CacheUnavailableError | None = None
        self.loses_answers = False
        self.taken: dict[str, int] = {}
        self.sent: list[tuple[int, int]] = []

    async def write(self, writer: str, number: int, records: Sequence[Record]) -> bool:
        self.sent.append((number, len(records)))
        if self.error and not self.loses_answers:
            raise self.error
        new = number > self.taken.get(writer, 0)
        if new:
            self.taken[writer] = number
            self.records += records
        if self.error:
            raise self.error
        return new


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


def record(time: float = NOON, tenant: str = "acme", **fields: object) -> Record:
    given = {"tier": "mid", "model": "medium", "cache": "miss", "reason": "no candidate", "route": "score"}
    return Record(time=time, tenant=tenant, **{**given, **fields})  # type: ignore[arg-type]


def counted(*records: Record) -> list[Counted]:
    return [(slot[:13], group, counters) for (slot, group), counters in rolled_up(records).items()]


async def recorded(gateway: TrafficController, outcomes: list[Outcome]) -> list[Record]:
    await gateway.drain()
    return [answered(NOON, outcome) for outcome in outcomes]


async def test_a_miss_and_the_hit_after_it_are_a_record_each(cache: FakeExactCache, providers: Providers) -> None:
    outcomes: list[Outcome] = []
    gateway = controller(cache, providers, score=0.5, on_end=outcomes.append)
    await gateway.handle(chat("hello"))
    await gateway.drain()
    await gateway.handle(chat("hello"))
    miss, hit = await recorded(gateway, outcomes)
    assert (miss.tenant, miss.tier, miss.model, miss.cache, miss.route) == ("acme", "mid", "medium", "miss", "score")
    assert (miss.prompt_tokens, miss.completion_tokens) == (100, 50)
    assert (miss.cost_usd, miss.without_usd) == (0.0002, 0.002)
    assert (hit.tier, hit.cache, hit.reason, hit.cost_usd, hit.without_usd) == ("cache", "hit", "exact", 0, 0.002)
    assert (miss.prompt, miss.answer, hit.prompt, hit.answer) == (None, None, None, None)


async def test_texts_are_kept_only_where_that_is_asked_for(providers: Providers) -> None:
    outcome = await controller(None, providers).handle(chat("hello"))
    assert answered(NOON, outcome, texts=True).prompt == "hello"
    assert answered(NOON, outcome, texts=True).answer == "Hello there, friend."
    assert b"hello" not in repr(answered(NOON, outcome)).encode().lower()


async def test_tokens_that_the_provider_had_read_before_are_counted(providers: Providers) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 64}}
    providers["local"].completion.body["usage"] = usage
    assert answered(NOON, await controller(None, providers).handle(chat())).cached_tokens == 64


async def test_whatever_an_upstream_says_can_be_written(providers: Providers) -> None:
    body = providers["local"].completion.body
    body["usage"] = {"prompt_tokens": 12.0, "completion_tokens": 3.0, "prompt_tokens_details": "none"}
    body["choices"][0]["message"]["content"] = "half a \ud83d"
    request = replace(chat("hello"), request_id="x" * 5000)
    found = answered(NOON, await controller(None, providers).handle(request), texts=True)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Record) == found
    assert (found.prompt_tokens, found.cached_tokens, found.answer) == (12, 0, "half a ?")
    assert len(found.request_id) == 128


async def test_a_stream_that_breaks_is_one_record_with_its_cause(providers: Providers) -> None:
    outcomes: list[Outcome] = []
    providers["local"].breaks_after = 2
    gateway = controller(None, providers, on_end=outcomes.append)
    streaming = await gateway.stream(chat("hello"))
    assert not isinstance(streaming, Outcome)
    with pytest.raises(UpstreamError):
        async for _ in streaming.parts:
            pass
    (broken,) = await recorded(gateway, outcomes)
    assert (broken.finished, broken.error, broken.tier, broken.status) == (False, "upstream_error", "local", 200)


async def test_a_stream_that_its_client_leaves_is_one_record(providers: Providers) -> None:
    outcomes: list[Outcome] = []
    gateway = controller(None, providers, on_end=outcomes.append)
    streaming = await gateway.stream(chat("hello"))
    assert not isinstance(streaming, Outcome)
    await anext(streaming.parts)
    await streaming.parts.aclose()
    (left,) = await recorded(gateway, outcomes)
    assert (left.finished, left.error) == (False, "client_gone")


async def test_followers_of_one_call_are_a_record_each_and_only_the_call_costs(cache: FakeExactCache) -> None:
    outcomes: list[Outcome] = []
    upstream = GatedProvider("medium")
    gateway = controller(cache, {"mid": upstream}, on_end=outcomes.append)
    asked = [asyncio.create_task(gateway.handle(chat("hello", model="mid"))) for _ in range(3)]
    await until(lambda: upstream.bodies)
    upstream.gate.set()
    await asyncio.gather(*asked)
    records = await recorded(gateway, outcomes)
    assert sorted((r.cache, r.reason, r.cost_usd > 0) for r in records) == [
        ("hit", "coalesced", False),
        ("hit", "coalesced", False),
        ("miss", "exact only", True),
    ]


@pytest.mark.parametrize("coalesce", [True, False])
async def test_a_client_that_leaves_before_the_answer_leaves_one_record(cache: FakeExactCache, coalesce: bool) -> None:
    outcomes: list[Outcome] = []
    upstream = GatedProvider("medium")
    config = CONFIG.model_copy(update={"cache": CONFIG.cache.model_copy(update={"coalesce": coalesce})})
    gateway = controller(cache, {"mid": upstream}, config=config, on_end=outcomes.append)
    asked = asyncio.create_task(gateway.handle(chat("hello", model="mid")))
    await until(lambda: upstream.bodies)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    (left,) = await recorded(gateway, outcomes)
    assert (left.tier, left.error, left.status, left.finished) == ("none", "client_gone", 499, False)


async def test_a_leader_that_leaves_while_another_waits_is_recorded_with_its_call(cache: FakeExactCache) -> None:
    outcomes: list[Outcome] = []
    upstream = GatedProvider("medium")
    gateway = controller(cache, {"mid": upstream}, on_end=outcomes.append)
    first = asyncio.create_task(gateway.handle(chat("hello", model="mid")))
    await until(lambda: upstream.bodies)
    second = asyncio.create_task(gateway.handle(chat("hello", model="mid")))
    await asyncio.sleep(0.01)
    first.cancel()
    upstream.gate.set()
    await second
    records = await recorded(gateway, outcomes)
    assert sorted((r.cache, r.finished) for r in records) == [("hit", True), ("miss", True)]


@pytest.mark.parametrize(
    ("error", "cause", "status"),
    [
        (UnavailableError("No model answered."), "service_unavailable", 503),
        (ContextLengthError("you said: my secret"), "context_length_exceeded", 400),
    ],
)
def test_a_refused_request_is_recorded_by_its_cause_without_its_words(
    error: UnavailableError, cause: str, status: int
) -> None:
    found = refused(NOON, error, request_id="r", tenant="acme", endpoint="/v1/messages", latency_s=0.5)
    assert (found.error, found.status, found.tier, found.finished) == (cause, status, "none", False)
    assert "secret" not in repr(found)


def test_a_refused_request_is_recorded_with_what_it_cost() -> None:
    error = UnavailableError("No model answered.")
    error.spent_usd = 0.0002
    found = refused(NOON, error, request_id="r", tenant="acme", endpoint="/v1/messages", latency_s=0.5)
    assert (found.cost_usd, found.without_usd) == (0.0002, 0)


def test_a_summary_says_what_was_saved_how_often_the_cache_hit_and_how_long_it_took() -> None:
    hit = record(cache="hit", reason="exact", tier="cache", route="cache", without_usd=0.002, latency_s=0.002)
    miss = record(cost_usd=0.0002, without_usd=0.002, prompt_tokens=100, latency_s=1.0, stages={"model": 0.9})
    failed = refused(NOON, UnavailableError("?"), request_id="", tenant="acme", endpoint="", latency_s=0.1)
    check = audited(NOON, "routed answer", "acme", "mid", 0.0005)
    total = summary(counted(hit, hit, hit, miss, failed, check), None)["total"]
    assert (total["requests"], total["audits"], total["hit_rate"]) == (5, 1, 0.75)
    assert (total["cost_usd"], total["audit_cost_usd"], total["without_usd"]) == (0.0002, 0.0005, 0.008)
    assert total["saved_usd"] == 0.0073
    assert total["tiers"] == {"cache": 3, "mid": 1, "none": 1}
    assert total["errors"] == {"service_unavailable": 1}
    assert (total["reasons"], total["routes"]) == ({"exact": 3, "no candidate": 1}, {"cache": 3, "score": 1})
    assert total["prompt_tokens"] == 100
    assert total["latency"]["model"]["count"] == 1
    assert total["latency"]["total"]["p50_ms"] == pytest.approx(2, rel=0.42)
    assert total["latency"]["total"]["p95_ms"] == pytest.approx(1000, rel=0.42)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("hour", ["2026-05-28T12:00Z", "2026-05-28T13:00Z"]),
        ("day", ["2026-05-28"]),
        ("tenant", ["acme", "globex"]),
        ("tier", ["mid", "top"]),
        ("model", ["medium"]),
        ("decision", ["bypass", "miss"]),
    ],
)
def test_rows_are_made_by_any_dimension_and_add_up(by: str, keys: list[str]) -> None:
    found = counted(record(), record(NOON + 3600, "globex", tier="top", cache="bypass", cost_usd=1.5))
    rows = summary(found, dimension(by))
    assert [row[by] for row in rows["data"]] == keys
    assert sum(row["requests"] for row in rows["data"]) == rows["total"]["requests"] == 2
    assert sum(row["cost_usd"] for row in rows["data"]) == 1.5
    assert [row["tenant"] for row in rows["top_tenants"]] == ["globex", "acme"]


def test_another_dimension_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="one of: hour, day, tenant"):
        dimension("week")


@given(st.lists(st.floats(1e-4, 1000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_right_to_the_width_of_a_bucket(latencies: list[float], share: float) -> None:
    histogram: dict[int, int] = {}
    for latency in latencies:
        histogram[bucket(latency)] = histogram.get(bucket(latency), 0) + 1
    exact = sorted(latencies)[max(0, -(-int(share * 1000) * len(latencies) // 1000) - 1)]
    assert exact / 1.4143 <= quantile(histogram, share) <= exact * 1.4143


def test_records_are_counted_in_the_five_minutes_that_they_ended_in() -> None:
    found = rolled_up([record(NOON - 1, cost_usd=0.1), record(NOON, cost_usd=0.2), record(NOON + 299, cost_usd=0.1)])
    group = Group("request", "acme", "mid", "medium", "miss", "")
    assert {slot: counters["cost"] for (slot, _), counters in found.items()} == {
        "2026-05-28T11:55": 100_000_000,
        "2026-05-28T12:00": 300_000_000,
    }
    assert set(found) == {(slot_of(NOON - 1), group), (slot_of(NOON), group)}
    assert periods_of(slot_of(NOON)) == ("2026-05-28T12:00", "2026-05-28T12", "2026-05-28")


def test_a_period_is_whole_hours_and_by_default_the_last_day() -> None:
    assert [said(time) for time in period(None, None, NOON + 60)] == ["2026-05-27T13:00Z", "2026-05-28T13:00Z"]
    assert [said(t) for t in period("2026-05-01", "2026-05-02T10:30+02:00", 0)] == [
        "2026-05-01T00:00Z",
        "2026-05-02T09:00Z",
    ]


@pytest.mark.parametrize(("start", "end"), [("yesterday", None), ("2026-05-02", "2026-05-01"), ("2020-01-01", None)])
def test_a_period_that_is_none_says_what_to_send(start: str, end: str | None) -> None:
    with pytest.raises(InvalidRequestError, match="`from` must be"):
        period(start, end, NOON)


async def outcome_of(providers: Providers) -> Outcome:
    return await controller(None, providers).handle(chat("hello"))


async def test_what_is_added_is_written_in_batches(ledger: FakeLedger, providers: Providers) -> None:
    outcome = await outcome_of(providers)
    writer = LedgerWriter(ledger, False, 10_000)
    for _ in range(250):
        writer.add(outcome)
    writer.put(record())
    assert await writer.flush()
    assert (len(ledger.records), ledger.sent) == (251, [(1, 100), (2, 100), (3, 51)])
    await writer.close()


async def test_it_is_written_by_itself_a_while_later(ledger: FakeLedger, providers: Providers) -> None:
    writer = LedgerWriter(ledger, False, 10_000, flush_s=0.01)
    writer.add(await outcome_of(providers))
    await until(lambda: ledger.records)
    writer.add(await outcome_of(providers))
    await until(lambda: len(ledger.records) == 2)
    await writer.close()


async def test_five_hundred_do_not_wait(ledger: FakeLedger, providers: Providers) -> None:
    outcome = await outcome_of(providers)
    writer = LedgerWriter(ledger, False, 10_000, flush_s=3600)
    for _ in range(500):
        writer.add(outcome)
    await until(lambda: len(ledger.records) == 500)
    await writer.close()


async def test_a_batch_whose_answer_was_lost_is_sent_again_as_it_was(ledger: FakeLedger) -> None:
    writer = LedgerWriter(ledger, False, 10_000)
    writer.put(record(request_id="a"))
    ledger.error, ledger.loses_answers = CacheUnavailableError("gone"), True
    assert not await writer.flush()
    writer.put(record(request_id="b"))
    ledger.error = None
    assert await writer.flush()
    assert [found.request_id for found in ledger.records] == ["a", "b"]
    assert ledger.sent == [(1, 1), (1, 1), (2, 1)]
    await writer.close()


async def test_while_the_store_is_away_a_bounded_number_waits_and_the_rest_is_counted(
    ledger: FakeLedger, providers: Providers
) -> None:
    outcome, dropped = await outcome_of(providers), list[int]()
    ledger.error = CacheUnavailableError("gone")
    writer = LedgerWriter(ledger, False, 30, dropped.append)
    for _ in range(20):
        writer.add(outcome)
    assert not await writer.flush()
    for _ in range(20):
        writer.add(outcome)
    ledger.error = None
    await writer.close()
    assert (len(ledger.records), sum(dropped)) == (30, 10)


async def test_it_ends_though_the_store_never_answers(ledger: FakeLedger) -> None:
    ledger.error = CacheUnavailableError("gone")
    writer = LedgerWriter(ledger, False, 30, flush_s=0.01)
    writer.put(record())
    await writer.close(patience_s=0.05)
    assert len(ledger.sent) > 1
