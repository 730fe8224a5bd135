"""Money, time, quality and settings, on logs of a few made-up requests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.cache.calibration import upper_bound
from app.classifier import ClassifierConfig
from app.classifier.calibration import RouterCalibration
from app.classifier.encoder import WEIGHTS
from app.replay.costs import costs_of
from app.replay.figures import figures
from app.replay.quality import Seen, fitted, seen
from app.replay.run import Replayed
from app.replay.settings import ThresholdPoint, cache_choices, route_choices, route_points, thresholds
from app.replay.tokens import logged_tokens, shaped_tokens
from app.replay.work import ALIKE, DIFFERENT, SAME
from tests.app.replay.made import NOON, changed, replayed, simulation
from tests.fakes import CONFIG


def test_a_request_costs_what_its_model_did_and_then_what_its_tier_does() -> None:
    made = simulation(replayed(score=[0.1, 0.5, 0.9, 0.9], reasons=["miss x", "miss x", "miss x", "hit exact"]))
    large, medium = (100 * 10 + 50 * 20) / 1e6, (100 * 1 + 50 * 2) / 1e6
    assert made.costs.before_usd == pytest.approx([large] * 4)
    assert made.after_usd == pytest.approx([0, medium, large, 0])
    assert figures(made)["tiers"] == {"cache": 0.25, "local": 0.25, "mid": 0.25, "top": 0.25}


def test_cached_tokens_and_batches_have_their_prices_before_and_after() -> None:
    made = simulation(replayed(2, batch=[True, False], score=[0.5, 0.5]))
    assert made.costs.before_usd[0] == pytest.approx(made.costs.before_usd[1] / 2)
    assert made.after_usd[0] == pytest.approx(made.after_usd[1] / 2)


def test_tokens_put_into_a_providers_cache_have_their_price() -> None:
    of = replayed(2, models=["claude-haiku-4-5"], cache_write_tokens=[0, 100])
    plain, written = costs_of(of, CONFIG).before_usd
    assert written - plain == pytest.approx(100 * 0.25 / 1e6)  # a quarter dearer than fresh ones, at $1 a million


def test_what_a_cache_answered_was_free_before_and_says_nothing_of_how_fast_the_model_is() -> None:
    tokens = np.tile([10.0, 100.0], 40)
    free = np.arange(80) < 40
    latency = np.where(free, 0.001, 0.5 + tokens / 50)
    of = replayed(80, completion_tokens=tokens, latency_s=latency, free=free, score=[0.9] * 80)
    made = simulation(of)
    assert not made.costs.before_usd[:40].any()
    assert made.costs.before_usd[40:].all()
    assert made.costs.latency["top"] == "0.50 s and 50 tokens a second, learnt from large in the log"
    assert made.costs.tier_s[:2, 2] == pytest.approx([0.7, 2.5])
    assert any(
        "Free before, since a cache had the answer: 40 requests" in line for line in figures(made)["assumptions"]
    )


def test_a_price_is_that_of_the_day_of_the_request() -> None:
    days = [1_683_000_000, 1_689_000_000]  # in May and in July of 2023
    made = simulation(replayed(2, time=days, models=["gpt-3.5-turbo"]))
    assert made.costs.before_usd == pytest.approx([(200 + 100) / 1e6, (150 + 100) / 1e6])


def test_a_model_that_is_not_logged_costs_what_the_baseline_does_and_an_unknown_one_is_named() -> None:
    made = simulation(replayed(2, models=["", "our-own"]))
    assert made.costs.before_usd == pytest.approx([0.002, 0])
    assert made.costs.unpriced == ["our-own"]
    assert any("our-own" in line for line in figures(made)["assumptions"])


def test_missing_tokens_are_counted_and_missing_answers_have_the_mean() -> None:
    nan = float("nan")
    of = replayed(prompt_tokens=[nan, 8, 8, 8], completion_tokens=[10, nan, nan, 30], answer_tokens=[10, 20, -1, 30])
    tokens, estimated = logged_tokens(of, CONFIG)
    assert tokens.prompt.tolist() == [100, 8, 8, 8]
    assert tokens.completion.tolist() == [10, 20, 20, 30]
    assert estimated == {"prompt tokens": 1, "completion tokens": 2, "answer": 1}


def test_a_tier_is_as_fast_as_configured_else_as_its_model_was_in_the_log_else_as_assumed() -> None:
    tokens = np.tile([10.0, 100.0], 20)
    of = replayed(40, models=["medium"], completion_tokens=tokens, latency_s=0.5 + tokens / 50, score=[0.1] * 40)
    local = {"first_token_s": 1, "output_tokens_per_s": 10}
    costs = costs_of(of, changed(replay={"latency": {"local": local}}))
    assert costs.tier_s[:2, 0] == pytest.approx([2, 11])
    assert costs.latency["mid"] == "0.50 s and 50 tokens a second, learnt from medium in the log"
    assert costs.latency["top"].endswith("assumed")


def test_a_latency_that_is_not_logged_is_that_of_its_model_in_the_log() -> None:
    tokens = np.tile([10.0, 100.0], 20)
    latency = 0.5 + tokens / 50
    latency[:2] = np.nan
    costs = costs_of(replayed(40, completion_tokens=tokens, latency_s=latency), CONFIG)
    assert costs.before_s[:2] == pytest.approx([0.7, 2.5], abs=1e-6)
    assert costs.estimated["latency"] == 2


def test_how_long_failures_took_is_no_latency_of_before() -> None:
    ok = np.array([True, True, False, True] * 10)
    of = replayed(40, ok=ok, latency_s=np.where(ok, 2.0, 9.0))
    shown = figures(simulation(of))
    assert shown["latency"]["before"]["mean_s"] == 2.0
    assert shown["by_tenant"][0]["before_s"] == 2.0
    after = shown["latency"]["after"]["mean_s"]
    assert shown["intervals"]["latency_ratio"][0] == pytest.approx(2.0 / after, rel=1e-3)


def test_the_model_that_answered_then_is_as_fast_now() -> None:
    made = simulation(replayed(2, latency_s=[3, 4], score=[0.9, 0.1]))
    assert made.after_s[0] == pytest.approx(3 + 0.0261)
    assert made.after_s[1] != pytest.approx(4 + 0.0261)


def test_a_hit_takes_what_a_hit_takes() -> None:
    reasons = ["miss x", "hit exact", "hit verified"]
    made = simulation(replayed(3, reasons=reasons, served=[-1, 0, 0], evidence=[np.nan, np.nan, 1.0]))
    assert made.after_s[1:] == pytest.approx([0.0012, 0.0144])


def test_an_identical_request_waits_for_the_answer_under_way_and_one_of_the_same_meaning_is_a_miss() -> None:
    reasons = ["miss x", "hit exact", "hit verified", "hit verified"]
    of = replayed(reasons=reasons, served=[-1, 0, 0, 0], time=NOON + np.array([0.0, 0.4, 0.5, 9.0]))
    made = simulation(of, changed(replay={"exact_hit_s": 0.1, "semantic_hit_s": 0.1, "miss_s": 0.1}))
    took = made.costs.tier_s[0, made.costs.tier[0]] + 0.1
    assert made.after_s == pytest.approx([took, 0.1 + took - 0.4, took, 0.1])
    assert made.routed.tolist() == [True, False, True, False]
    assert figures(made)["cache"]["reasons"]["miss in flight"] == 1
    assert made.replayed.served.tolist() == [-1, 0, -1, 0]


def test_without_coalescing_identical_requests_in_flight_are_misses_too() -> None:
    of = replayed(2, reasons=["miss x", "hit exact"], served=[-1, 0], time=NOON + np.array([0.0, 0.4]))
    assert simulation(of, changed(cache={"coalesce": False})).routed.tolist() == [True, True]


def test_a_month_is_the_log_scaled_to_its_days() -> None:
    shown = figures(simulation(replayed(49)))  # an hour apart: two days
    assert shown["month"]["before_usd"] == pytest.approx(49 * 0.002 * 30.4375 / 2, abs=0.01)


def test_the_share_of_failures_after_is_that_of_every_call_of_every_tier_failing() -> None:
    of = replayed(
        10,
        ok=[False] * 5 + [True] * 5,
        score=[0.1] * 4 + [0.9] * 4 + [0.5] * 2,
        reasons=["miss x"] * 8 + ["hit exact"] * 2,
    )
    # three tiers of one target, each asked three times
    after = pytest.approx(1 - (4 * 0.5**9 + 4 * 0.5**3) / 10)
    assert figures(simulation(of))["reliability"] == {"before": 0.5, "after": after}


def test_the_bundled_classifier_says_how_often_it_errs() -> None:
    found = seen(ClassifierConfig())
    assert found is not None
    card = json.loads((WEIGHTS / "card.json").read_text("utf-8"))["held_out"]["product"]
    expected = [card["rows"] * card[name] for name in ("below_top", "too_weak")]
    assert [found.among, found.wrong] == pytest.approx(expected, abs=0.5)
    assert 0.05 < found.wrong / found.among < 0.15


def test_a_calibration_says_what_quality_it_keeps(tmp_path: Path) -> None:
    made = RouterCalibration((0.2, 0.5), (0.3, 0.7, 1.0), 0.95, 0.95, 1000, 0.97, 1, 2, (0.3, 0.3, 0.4), "c", "d")
    made.save(tmp_path / "router.json")
    found = seen(ClassifierConfig(calibration=tmp_path / "router.json"))
    assert found is not None
    assert (found.wrong, found.among) == (30, 600)


def test_the_quality_model_is_as_often_wrong_as_was_seen() -> None:
    scores = np.linspace(0, 0.999, 1000)
    tiers = np.searchsorted([0.3, 0.7], scores, side="right")
    model = fitted(Seen(26, 201, ""), scores, tiers, [0.3, 0.7, 1.0])
    below = tiers < 2
    assert model.weak(scores, tiers)[below].mean() == pytest.approx(26 / 201, abs=1e-3)
    assert not model.weak(scores, tiers)[~below].any()
    kept, low, high = model.kept(scores, tiers)
    assert kept == pytest.approx(1 - 0.7 * 26 / 201, abs=1e-3)
    assert high - kept == pytest.approx(0.7 * (26 / 201 - Seen(26, 201, "").shares()[1]), abs=2e-3)
    assert low < kept < high


def test_all_to_the_top_tier_keeps_all_quality_and_costs_most() -> None:
    of = replayed(1000, score=np.linspace(0, 0.999, 1000))
    costs = costs_of(of, CONFIG)
    model = fitted(Seen(26, 201, ""), of.score.astype(float), costs.tier, [0.3, 0.7, 1.0])
    points = route_points(of, costs, model, np.ones(1000, bool))
    assert points[-1].kept == pytest.approx((1, 1, 1))
    assert points[-1].usd == pytest.approx(1000 * 0.002)
    assert [p.usd for p in points] == sorted(p.usd for p in points)
    assert [p.kept[1] for p in points] == sorted(p.kept[1] for p in points)
    choices = route_choices(points, 1000, points[-1].usd, 0.0)
    assert all(choice.point.kept[1] >= choice.quality for choice in choices)
    assert [choice.net_usd for choice in choices] == sorted((c.net_usd for c in choices), reverse=True)
    dear = route_choices(points, 1000, points[-1].usd, 1.0)
    assert max(dear, key=lambda choice: choice.net_usd).quality == max(choice.quality for choice in choices)


def graded(count: int = 1000) -> Replayed:
    """Make hits of evidence from 0.90 to 1.10, misses of 0.80 to 0.90; those under 0.93 would serve wrong answers."""
    evidence = np.concatenate([np.linspace(0.9, 1.1, count), np.linspace(0.8, 0.8999, count)])
    reasons = ["hit verified"] * count + ["miss unverified"] * count
    rows = np.arange(2 * count)
    return replayed(
        2 * count,
        reasons=reasons,
        evidence=evidence,
        served=np.where(rows < count, 0, -1),
        near=np.where(rows < count, -1, 0),
        compared=np.stack([rows, 0 * rows, np.where(evidence >= 0.93, SAME, DIFFERENT)], 1),
    )


def test_thresholds_are_judged_by_the_logged_answers_strict_ones_first() -> None:
    of = graded()
    points = thresholds(of, costs_of(of, CONFIG), 0.9)
    assert [p.threshold for p in points] == pytest.approx(np.arange(1.05, 0.799, -0.01))
    at = {p.threshold: p for p in points}
    assert (at[0.95].wrong, at[0.95].hits) == (0, 750)
    assert at[0.9].hits == 1000
    assert at[0.9].wrong == pytest.approx(0.15, abs=0.001)
    assert at[0.9].upper == pytest.approx(upper_bound(150, 1000, 0.95), rel=0.01)
    assert at[0.8].hits == 2000


def test_each_limit_gets_the_loosest_threshold_that_keeps_it() -> None:
    of = graded()
    choices = {c.max_error_rate: c for c in cache_choices(thresholds(of, costs_of(of, CONFIG), 0.9), 0.0)}
    assert choices[0.005].point.threshold == pytest.approx(0.93)
    assert choices[0.05].point.threshold == pytest.approx(0.93)
    assert 0.001 not in choices  # which 850 comparisons cannot show


def test_a_threshold_is_not_tested_after_one_that_failed() -> None:
    uppers = [(1.0, 0.004), (0.9, 0.03), (0.8, 0.006)]
    points = [ThresholdPoint(threshold, 500, 0.0, upper, 500, 1.0) for threshold, upper in uppers]
    (choice,) = [choice for choice in cache_choices(points, 0.0) if choice.max_error_rate == 0.01]
    assert choice.point.threshold == 1.0


def test_what_wrong_answers_cost_decides_how_many_are_worth_having() -> None:
    points = [ThresholdPoint(1.0, 500, 0.0, 0.009, 500, 1.0), ThresholdPoint(0.9, 1000, 0.01, 0.018, 1000, 3.0)]
    cheap, dear = cache_choices(points, 0.0), cache_choices(points, 1.0)
    assert max(cheap, key=lambda choice: choice.net_usd).point.threshold == 0.9
    assert max(dear, key=lambda choice: choice.net_usd).max_error_rate == 0.01


def test_expected_false_hits_are_those_of_the_calibration_by_the_share_of_hits_by_meaning() -> None:
    reasons = ["hit exact", "hit surface", "hit verified", "miss x"]
    of = replayed(reasons=reasons, served=[0, 0, 0, -1], compared=[[1, 0, ALIKE], [2, 0, DIFFERENT]])
    cache = figures(simulation(of))["cache"]
    semantic, hits = cache["expected_false_hits"]["of_semantic_hits"], cache["expected_false_hits"]["of_hits"]
    assert semantic[0] == pytest.approx(1 / 497, abs=1e-5)
    assert hits == pytest.approx([share * 2 / 3 for share in semantic], abs=1e-6)
    assert cache["measured_false_hits"] == {
        "of_semantic_hits": [0.5, 0.0126, 0.9874],
        "wrong": 1,
        "decided": 2,
        "undecided": 0,
    }


def test_each_group_has_the_expected_false_hits_the_tier_shares_and_the_quality_of_its_own() -> None:
    tenants, score = ["acme", "acme", "acme", "acme", "globex", "globex"], [0.1, 0.29, 0.5, 0.5, 0.9, 0.9]
    reasons = ["miss x", "miss x", "hit exact", "hit verified", "miss x", "hit exact"]
    shown = figures(
        simulation(replayed(6, tenants=tenants, score=score, reasons=reasons, served=[-1, -1, 0, 0, -1, 4]))
    )
    acme, globex = sorted(shown["by_tenant"], key=lambda group: str(group["name"]))
    assert acme["tiers"] == {"cache": 0.5, "local": 0.5, "mid": 0, "top": 0}
    assert globex["tiers"] == {"cache": 0.5, "local": 0, "mid": 0, "top": 0.5}
    wrong = shown["cache"]["expected_false_hits"]["of_semantic_hits"]
    assert acme["expected_false_hits"] == pytest.approx([share / 2 for share in wrong], abs=1e-6)
    assert globex["expected_false_hits"] == [0, 0, 0]
    estimate, low, high = acme["quality_kept"]
    assert low < estimate < high < 1
    assert globex["quality_kept"] == [1, 1, 1]
    lost = [(2 * (1 - ours) + 0) / 3 for ours in acme["quality_kept"]]  # of three that are routed
    assert shown["quality"]["kept"] == pytest.approx([1 - share for share in lost], abs=1e-3)


def test_a_group_is_not_promised_what_nothing_is_known_of() -> None:
    (group,) = figures(simulation(replayed(), changed(cache={"threshold": 0.9})))["by_tenant"]
    assert group["expected_false_hits"] is None


def test_a_threshold_of_ones_own_has_no_expected_false_hits() -> None:
    assert figures(simulation(replayed(), changed(cache={"threshold": 0.9})))["cache"]["expected_false_hits"] is None


def test_a_latency_for_a_tier_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"replay.latency: there is no tier `tpo`"):
        changed(replay={"latency": {"tpo": {"first_token_s": 1, "output_tokens_per_s": 1}}})


def test_a_profile_saves_what_it_leaves_out() -> None:
    lengths = {"replay": {"profile_answer_tokens": {"brief": 10}}, "profiles": {"brief": {"instruction": "Be brief."}}}
    of = replayed(2, profiles=["brief", ""], added_tokens=[-40, 0], score=[0.9, 0.9])
    made = simulation(of, changed(**lengths))
    assert made.after_usd == pytest.approx([(60 * 10 + 10 * 20) / 1e6, 0.002])
    a_month = figures(made)["parts"]["shaping_usd"] / made.a_month
    assert a_month == pytest.approx((40 * 10 + 40 * 20) / 1e6, abs=1e-4)
    assert made.after_s[0] < made.after_s[1]
    assert any("brief 10" in line for line in figures(made)["assumptions"])


def test_an_answer_that_a_profile_cuts_is_paid_twice() -> None:
    of = replayed(3, limit=[10, 10, 100], raised_limit=[40, 0, 400])
    shaped = shaped_tokens(logged_tokens(of, CONFIG)[0], of, CONFIG)
    assert shaped.completion.tolist() == [10 + 40, 10, 50]
    assert shaped.prompt.tolist() == [200, 100, 100]
    assert shaped.calls.tolist() == [2, 1, 1]


def test_answers_of_a_profile_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"replay.profile_answer_tokens: there is no profile `brif`"):
        changed(replay={"profile_answer_tokens": {"brif": 10}})


def test_who_asked_when_and_what_is_said_to_be_unknown() -> None:
    made = simulation(replayed(3, anonymous=[True, True, False], untimed=2, models=["", "large"]))
    estimated = made.costs.estimated
    assert (estimated["user"], estimated["time"], estimated["model"]) == (2, 2, 2)
    assert any("one tenant" in line for line in figures(made)["assumptions"])


def test_a_local_tier_without_a_price_is_said_to_be_free() -> None:
    rent = {"usd_per_gpu_hour": 2.5, "output_tokens_per_s": 1000}
    for price, said in (({}, True), ({"price": rent}, False)):
        local = {"name": "local", "max_score": 0.3, "llm": {"model": "a/b", **price}}
        made = simulation(replayed(), changed(tiers=[local, *CONFIG.model_dump(exclude_defaults=True)["tiers"][1:]]))
        assert any("Free by the configuration: local" in line for line in figures(made)["assumptions"]) is said


def test_hits_and_misses_are_bounded_apart_since_they_are_not_sampled_alike() -> None:
    of = graded()
    told = of.compared[np.r_[0:1000:10, 1000:2000]]  # a tenth of the hits, all the misses
    few = replace(of, compared=told)
    (at,) = [point for point in thresholds(few, costs_of(few, CONFIG), 0.9) if point.threshold == 0.8]
    assert at.wrong == pytest.approx((0.15 * 1000 + 1000) / 2000, abs=0.01)
    assert at.wrong < at.upper < at.wrong + 0.06


def test_answers_that_are_alike_to_models_do_not_speak_for_a_looser_threshold() -> None:
    evidence = np.concatenate([np.full(1000, 1.0), np.full(1000, 0.85)])
    rows = np.arange(2000)
    for says, hits, threshold in ((ALIKE, 1000, 1.0), (SAME, 2000, 0.85)):
        of = replayed(
            2000,
            reasons=["hit verified"] * 1000 + ["miss unverified"] * 1000,
            evidence=evidence,
            served=np.where(rows < 1000, 0, -1),
            near=np.where(rows < 1000, -1, 0),
            compared=np.stack([rows, 0 * rows, np.full(2000, says)], 1),
        )
        choices = cache_choices(thresholds(of, costs_of(of, CONFIG), 0.9), 0.0)
        best = max(choices, key=lambda choice: choice.net_usd)
        assert best.point.hits == hits
        assert best.point.threshold == pytest.approx(threshold)


def test_answers_that_are_alike_do_not_show_fewer_wrong_hits_than_the_calibration() -> None:
    rows = np.arange(1000)
    for says, upper in ((ALIKE, 0.01), (SAME, upper_bound(0, 1000, 0.95))):
        of = replayed(
            1000,
            reasons=["hit verified"] * 1000,
            evidence=np.full(1000, 1.0),
            served=0 * rows,
            compared=np.stack([rows, 0 * rows, np.full(1000, says)], 1),
        )
        at = {p.threshold: p for p in thresholds(of, costs_of(of, CONFIG), 0.9, (0.002, 0.01))}[0.9]
        assert at.upper == pytest.approx(upper)
        assert at.wrong == (0.002 if says == ALIKE else 0.0)
