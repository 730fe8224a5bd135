"""The quality kept by routing down: what is drawn, who judges, what moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache import RedisConfig
from app.cache.audit import Fresh, Verdict
from app.cache.bound import Tally
from app.embedded_redis import EmbeddedRedis
from app.errors import CacheUnavailableError, UpstreamError
from app.quality import QualityConfig
from app.quality.audit import Pair, QualityAuditor, QualityCheck
from app.quality.bound import STEP, Kept, moved
from app.quality.judge import Preference, preferred_by
from app.quality.store import RedisQuality
from app.schema import ChatRequest, Completion
from tests.fakes import FakeQuality, answer, chat

CONFIG = QualityConfig(share=0.5)


def test_nothing_moves_before_there_is_evidence() -> None:
    assert Kept().move(0.95, 0.95) is None
    assert Kept({"local": Tally(10, 1)}, {}, 10, 10).move(0.95, 0.95) is None


def test_the_tier_with_the_most_bad_answers_gets_fewer_requests_once_the_promise_is_broken() -> None:
    kept = Kept({"local": Tally(60, 30), "mid": Tally(60, 5)}, {}, 120, 120)
    assert kept.move(0.95, 0.95) == ("local", 1)


def test_what_went_to_the_best_tier_keeps_all_of_the_quality() -> None:
    tallies = {"local": Tally(200, 30)}
    assert Kept(tallies, {}, 200, 200).move(0.95, 0.95) == ("local", 1)
    few = Kept(tallies, {}, 2000, 200)
    assert few.estimate() == pytest.approx(1 - 0.1 * 0.15)
    assert few.move(0.95, 0.95) is None


def test_a_promise_that_is_kept_takes_a_step_back() -> None:
    good = {"local": Tally(2000, 2)}
    assert Kept(good, {"local": 2, "mid": 1}, 2000, 2000).move(0.95, 0.95) == ("local", -1)
    assert Kept(good, {}, 2000, 2000).move(0.95, 0.95) is None


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
    st.dictionaries(st.sampled_from(["local", "mid"]), st.integers(1, 60)),
)
def test_moved_cut_points_still_rise(cuts: list[float], steps: Mapping[str, int]) -> None:
    low, high = moved((cuts[0], cuts[1]), ("local", "mid"), steps)
    assert 0 <= low <= high <= cuts[1]
    assert low <= cuts[0]


def test_a_step_lowers_its_tiers_cut_point_alone() -> None:
    assert moved((0.3, 0.7), ("local", "mid"), {"local": 2}) == pytest.approx((0.3 - 2 * STEP, 0.7))


class Bench:
    """An auditor over fakes: `bests` is what the best tier says, `verdict` what the judge does."""

    def __init__(self, config: QualityConfig = CONFIG, *, judged: bool = True, draw: float = 0.0) -> None:
        self.best = answer("The best answer.", "large")
        self.verdict: bool | None = True
        self.asked: list[ChatRequest] = []
        self.error: UpstreamError | None = None
        self.bounds = FakeQuality()
        self.checks: list[QualityCheck] = []
        judge = self._judge if judged else None
        self.auditor = QualityAuditor(
            config, self.bounds, "top", self._ask, judge, self.checks.append, lambda: draw, lambda: 1.0
        )

    async def _ask(self, request: ChatRequest) -> Fresh:
        self.asked.append(request)
        return Fresh(self.best, 0.02)

    async def _judge(self, request: ChatRequest, routed: Completion, best: Completion) -> Verdict:
        if self.error:
            return await preferred_by(self._fail, "top")(request, routed, best)
        return Verdict(self.verdict, 0.001)

    async def _fail(self, body: Mapping[str, Any]) -> Fresh:
        assert self.error is not None
        raise self.error

    async def take(self, text: str = "A cheap answer.", tier: str = "local", **fields: Any) -> None:
        self.auditor.answered(chat("Why?", **fields), tier, answer(text))
        await self.auditor.drain()


@pytest.mark.parametrize(("verdict", "added"), [(True, [("local", True)]), (False, [("local", False)]), (None, [])])
async def test_a_drawn_answer_is_judged_and_counted(verdict: bool | None, added: list[tuple[str, bool]]) -> None:
    bench = Bench()
    bench.verdict = verdict
    await bench.take()
    assert (bench.bounds.added, bench.bounds.drawn) == (added, [True])
    assert bench.checks[0].as_good is verdict
    assert bench.checks[0].cost_usd == pytest.approx(0.021)
    assert bench.bounds.spent_usd == pytest.approx(0.021)


async def test_what_is_not_drawn_is_not_checked() -> None:
    bench = Bench(draw=0.5)
    await bench.take()
    assert (bench.asked, bench.bounds.drawn) == ([], [])


async def test_the_best_tiers_own_answers_are_drawn_and_cost_nothing() -> None:
    bench = Bench()
    await bench.take(tier="top")
    assert (bench.asked, bench.bounds.drawn, bench.bounds.spent_usd) == ([], [False], 0)


async def test_structured_answers_are_compared_without_a_judge() -> None:
    bench = Bench(judged=False)
    bench.best = answer('{"city": "Rome", "year": 1960}')
    await bench.take('{"year":1960,"city":"Rome"}', response_format={"type": "json_object"})
    await bench.take('{"year":1961,"city":"Rome"}', response_format={"type": "json_object"})
    assert bench.bounds.added == [("local", True), ("local", False)]


async def test_the_day_s_budget_is_kept() -> None:
    bench = Bench(QualityConfig(share=1, max_usd_per_day=0.03))
    for _ in range(5):
        await bench.take()
    assert len(bench.asked) == 2
    assert bench.bounds.drawn == [True] * 5


async def test_a_judge_that_fails_leaves_the_day_s_budget_kept_and_the_cost_counted() -> None:
    bench = Bench(QualityConfig(share=1, max_usd_per_day=0.03))
    bench.error = UpstreamError("down", "top")
    for _ in range(5):
        await bench.take()
    assert (len(bench.asked), bench.bounds.spent_usd) == (2, 0.04)
    assert [(check.as_good, check.cost_usd) for check in bench.checks] == [(None, 0.02)] * 2


async def test_while_nobody_knows_what_was_spent_nothing_is_checked() -> None:
    bench = Bench()
    bench.bounds.error = CacheUnavailableError("down")
    await bench.take()
    assert bench.asked == []


async def test_answers_compared_for_equality_need_no_place_among_the_pairs() -> None:
    bench = Bench(QualityConfig(share=1, max_pairs=0), judged=False)
    await bench.take()
    bench.best = answer('{"city": "Rome"}')
    await bench.take('{"city": "Rome"}', response_format={"type": "json_object"}, store=False)
    called = {"name": "weather", "arguments": '{"city": "Rome"}'}
    bench.best.body["choices"][0]["message"]["tool_calls"] = [{"id": "a", "type": "function", "function": called}]
    bench.auditor.answered(chat("Why?"), "local", bench.best)
    await bench.auditor.drain()
    assert (len(bench.asked), bench.bounds.added) == (2, [("local", True), ("local", True)])


async def test_a_word_on_a_pair_from_before_a_cut_point_moved_counts_for_nothing() -> None:
    bench = Bench(judged=False)
    await bench.take()
    bench.bounds.steps = {"local": 1}
    (pair,) = await bench.bounds.pairs()
    assert await bench.auditor.label(pair.id, "first")
    assert bench.bounds.added == []
    assert (bench.checks[-1].as_good is None, bench.checks[-1].kept) == (False, None)


async def test_without_a_judge_pairs_wait_for_people_blind_and_bounded() -> None:
    bench = Bench(QualityConfig(share=1, max_pairs=1), judged=False)
    await bench.take()
    await bench.take()
    await bench.take(store=False)
    (pair,) = await bench.bounds.pairs()
    assert (pair.tier, pair.routed, pair.best) == ("local", "A cheap answer.", "The best answer.")
    assert "tier" not in pair.shown()
    assert {pair.shown()["first"], pair.shown()["second"]} == {"A cheap answer.", "The best answer."}
    better: Preference = "first" if pair.shown()["first"] == pair.best else "second"
    assert await bench.auditor.label(pair.id, better)
    assert not await bench.auditor.label(pair.id, better)
    assert bench.bounds.added == [("local", False)]


async def test_what_asked_to_be_stored_nowhere_is_not_kept_for_people() -> None:
    bench = Bench(QualityConfig(share=1), judged=False)
    await bench.take(store=False)
    assert (bench.asked, bench.bounds.waiting) == ([], {})


@pytest.mark.parametrize(("better", "as_good"), [("best", False), ("routed", True), ("neither", True)])
def test_a_person_s_word_is_read_in_the_order_that_was_shown(better: str, as_good: bool) -> None:
    for name in ("a", "b", "c", "d"):
        pair = Pair(name, [], "local", "routed", "best", 0.0)
        place: Preference = "first" if pair.shown()["first"] == better else "second"
        assert pair.as_good("neither" if better == "neither" else place) is as_good


@pytest.mark.parametrize(
    ("words", "as_good"),
    [
        (("first", "second"), True),
        (("second", "first"), False),
        (("neither", "neither"), True),
        (("Neither.", "first"), False),
        (("neither", "**second**"), True),
        (("first", "first"), None),
        (("second", "second"), None),
        (("I think", "first"), None),
    ],
)
async def test_a_judge_is_asked_in_both_orders(words: tuple[str, str], as_good: bool | None) -> None:
    shown: list[str] = []

    async def complete(body: Mapping[str, Any]) -> Fresh:
        shown.append(body["messages"][1]["content"])
        return Fresh(answer(words[len(shown) - 1]), 0.001)

    verdict = await preferred_by(complete, "large")(chat("Why?"), answer("cheap"), answer("dear"))
    assert (verdict.correct, verdict.cost_usd) == (as_good, 0.002)
    assert "<first>\ncheap" in shown[0]
    assert "<first>\ndear" in shown[1]


@pytest.mark.redis
async def test_two_replicas_count_together_and_move_a_cut_point_once(redis: EmbeddedRedis) -> None:
    store = RedisConfig().build(url=redis.url)
    await store.run(lambda client: client.flushall())
    one, other = (RedisQuality(store, 0.95, 0.95, lambda: 0.0) for _ in range(2))
    await one.keep(Pair("p", [], "local", "a", "b", 0.0))
    moves = []
    for i in range(40):
        replica = (one, other)[i % 2]
        await replica.draw(True)
        _, move = await replica.add("local", as_good=False, drawn_at={})
        moves.append(move)
        if move:
            break
    assert moves[-1] == ("local", 1)
    assert await one.add("local", as_good=False, drawn_at={}) == (None, None)
    watch = await other.read()
    assert (watch.kept.steps, watch.kept.tallies, watch.kept.drawn, watch.waiting) == ({"local": 1}, {}, 0, 0)
    await store.close()


@pytest.mark.redis
async def test_redis_keeps_what_was_spent_and_each_pair_for_a_week(redis: EmbeddedRedis) -> None:
    store = RedisConfig().build(url=redis.url)
    await store.run(lambda client: client.flushall())
    clock = [10 * 86400.0]
    quality = RedisQuality(store, 0.95, 0.95, lambda: clock[0])
    await quality.spend(0.5)
    await quality.spend(0.25)
    pair = Pair("p", [{"role": "user", "content": "Why?"}], "local", "a", "b", clock[0], {"local": 1})
    await quality.keep(pair)
    assert await quality.pairs() == [pair]
    watch = await quality.read()
    assert (watch.spent_usd, watch.waiting) == (0.75, 1)
    assert await store.run(lambda client: client.httl("tw:quality:pairs", "p")) == [7 * 86400]
    assert await quality.take("p") == pair
    assert await quality.take("p") is None
    clock[0] += 86400
    assert (await quality.read()).spent_usd == 0
    await store.close()
