"""`tierwise bench case-study`: its traffic, its scripted models, and what is reckoned from the two runs."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from app.benchmark.case_study.client import Answer, Seconds, _play, seconds_of
from app.benchmark.case_study.command import with_overheads
from app.benchmark.case_study.figures import agreement, all_within, of_cache, of_run, overheads, token_cut
from app.benchmark.case_study.questions import CHAT, Question, restyled
from app.benchmark.case_study.running import BEFORE, Run, script, write_log
from app.benchmark.case_study.table import rows
from app.benchmark.case_study.traffic import Asked, traffic
from app.benchmark.case_study.upstream import Call, Pace, Script, ScriptedModels, reply
from app.config import read_serve_file
from app.jsonl import read_rows
from app.shaping.schema import text_fault
from app.shaping.tokens import count_tokens

FILE = read_serve_file(Path(__file__).parents[2] / "configs" / "case-study.yaml")
QUESTION = Question("m000007", CHAT, ("How do I reset my password?", "I forgot my password, what now?"), 40, "mid")
ASKED = Asked(0.0, QUESTION, QUESTION.texts[0], "new")


def answered(
    text: str = "[m000007] time year",
    started: float = 0.0,
    ended: float = 1.0,
    usage: tuple[int, int] = (30, 10),
    **headers: str,
) -> Answer:
    body = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]},
    }
    return Answer(started, ended, 200, body, {name.replace("_", "-"): value for name, value in headers.items()})


def call(started: float = 0.0, ended: float = 1.0, scripted_s: float = 10.0, **fields: Any) -> Call:
    given: dict[str, Any] = {"text": ASKED.text, "model": "gpt-4", "prompt_tokens": 1000, "completion_tokens": 1000}
    return Call(started=started, ended=ended, scripted_s=scripted_s, **{**given, "ok": True, **fields})


def run(answers: Sequence[Answer], calls: Sequence[Call] = ()) -> Run:
    return Run([ASKED] * len(answers), answers, [Seconds(1.0, 0.01)] * len(answers), calls)


def test_a_traffic_is_the_same_for_the_same_seed() -> None:
    assert traffic(300, seed=4) == traffic(300, seed=4) != traffic(300, seed=5)


def test_somewhat_more_than_a_third_of_the_requests_come_again_a_third_of_them_in_other_words() -> None:
    asked = traffic(4000)
    kinds = Counter(one.kind for one in asked)
    again = len(asked) - kinds["new"]
    assert 0.35 < again / len(asked) < 0.41
    assert 0.25 < (kinds["same words"] + kinds["other words"]) / again < 0.4
    assert min(kinds.values()) > 50


def test_requests_of_one_text_have_one_meaning_and_what_is_new_is_no_text_of_before() -> None:
    meanings: dict[tuple[str, str], str] = {}
    for one in traffic(4000):
        place = (one.question.system, one.text)
        assert meanings.setdefault(place, one.question.meaning) == one.question.meaning
    assert len(set(meanings.values())) > 2000


def test_some_requests_come_in_bursts() -> None:
    times = [one.at_s for one in traffic(4000)]
    fast = sum(b - a < 15 for a, b in zip(times, times[60:], strict=False))
    assert times == sorted(times)
    assert 0 < fast < 1000  # sixty in 15 s: usually it takes 25


def test_nearly_half_is_classification_and_extraction_and_the_rest_is_of_every_level() -> None:
    levels = Counter(one.question.level for one in traffic(2000))
    assert 0.4 < levels["structured"] / 2000 < 0.5
    assert min(levels[level] for level in ("small", "mid", "large")) > 100


def test_prompts_of_one_class_of_the_data_are_one_question_and_other_files_are_asked_too(tmp_path: Path) -> None:
    write(tmp_path / "cache/stream.jsonl", *({"prompt": f"a{i}", "class": "a", "source": "x"} for i in range(3)))
    write(tmp_path / "routing/dev/product.jsonl", {"prompt": "hard", "tier": "large"}, {"prompt": "A1"})
    asked = [one for one in traffic(400, tmp_path) if one.question.system == CHAT]
    meanings = {one.text: one.question.meaning for one in asked}
    assert meanings["a0"] == meanings["a1"] == meanings["a2"] != meanings["hard"]
    assert next(one.question.level for one in asked if one.text == "hard") == "large"
    assert "A1" not in meanings  # the text of a1, but for its case


def test_a_text_is_restyled_in_its_own_words() -> None:
    for seed in range(20):
        assert "reset my password" in restyled(QUESTION.texts[0], random.Random(seed)) != QUESTION.texts[0]


@pytest.mark.parametrize("profile", FILE.config.profiles)
def test_the_scripted_answer_to_a_profile_follows_its_schema_within_its_limit_and_names_the_meaning(
    profile: str,
) -> None:
    shape = FILE.config.profiles[profile]
    form = shape.fields()["response_format"]
    text, cut = reply({"response_format": form, "max_tokens": shape.max_tokens}, "m000007", 60)
    assert not cut
    assert text_fault(form, text) is None
    assert "m000007" in text
    tokens = count_tokens(text, "gpt-4")
    assert abs(tokens - FILE.config.replay.profile_answer_tokens[profile]) <= 1


def test_an_unshaped_answer_is_as_long_as_scripted_the_same_for_its_meaning_and_cut_at_the_limit() -> None:
    text, cut = reply({}, "m000007", 60)
    assert not cut
    assert abs(count_tokens(text, "gpt-4") - 60) <= 3
    assert reply({}, "m000007", 60) == (text, False) != reply({}, "m000008", 60)
    short, cut = reply({"max_tokens": 20}, "m000007", 60)
    assert cut
    assert 15 <= count_tokens(short, "gpt-4") <= 20
    assert text.startswith(short)


async def test_scripted_models_take_their_time_by_the_cases_clock_and_tell_of_their_calls() -> None:
    wanted = Script(50, 0.0, {BEFORE: Pace(0.5, 24)}, {ASKED.text: ("m000007", 40)})
    async with served(ScriptedModels(wanted)) as (url, calls):
        (answer,) = await _play(url, [ASKED], 50, BEFORE)
        (made,) = await calls()
    (took,) = seconds_of([ASKED], [answer], [made])
    assert answer.completion is not None
    assert answer.completion["usage"]["completion_tokens"] == made.completion_tokens
    assert (made.text, made.model, made.ok) == (ASKED.text, BEFORE, True)
    assert 0.8 < made.scripted_s < 6  # 2.1 s, more or less
    assert made.ended - made.started >= made.scripted_s / 50
    assert took.scripted_s == pytest.approx(made.scripted_s)
    assert 0 < took.own_s < answer.ended - answer.started


async def test_scripted_models_fail_at_their_rate_by_status_and_by_cut_connection() -> None:
    wanted = Script(1e6, 0.5, {BEFORE: Pace(0.5, 24)}, {ASKED.text: ("m000007", 40)})
    async with served(ScriptedModels(wanted)) as (url, calls):
        answers = await _play(url, [ASKED] * 200, 1, BEFORE)
        made = await calls()
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 500, 0}
    assert 60 < statuses[200] < 140
    assert sum(one.ok for one in made) == statuses[200] == sum(answer.ok for answer in answers)
    assert all(one.completion_tokens == 0 for one in made if not one.ok)


@pytest.mark.parametrize(
    ("calls", "scripted_s", "own_s"),
    [
        ([], 0.0, 4.0),
        ([call(1.0, 3.0)], 10.0, 2.0),
        ([call(1.0, 2.0, 5.0, ok=False), call(2.5, 3.5)], 15.0, 2.0),  # asked again
        ([call(-3.0, 1.0)], 2.5, 3.0),  # waited for an identical request's call
        ([call(1.0, 3.0), call(1.0, 3.0)], 10.0, 2.0),  # two at a time
        ([call(1.0, 3.0, text="another")], 0.0, 4.0),
        ([call(5.0, 6.0)], 0.0, 4.0),
    ],
)
def test_a_latency_is_what_the_upstreams_were_scripted_to_take_and_the_rest_undivided(
    calls: list[Call], scripted_s: float, own_s: float
) -> None:
    (took,) = seconds_of([ASKED], [answered(started=0.0, ended=4.0)], calls)
    assert (took.scripted_s, took.own_s) == pytest.approx((scripted_s, own_s))
    assert took.total_s == pytest.approx(scripted_s + own_s)


def test_a_hit_with_the_answer_of_another_meaning_is_wrong() -> None:
    right = answered(cache="hit", cache_reason="exact", tier="cache")
    wrong = answered('{"ticket":"m000008"}', cache="hit", cache_reason="verified", tier="cache")
    missed = answered(cache="miss", tier="mid")
    found = of_cache(run([right, wrong, missed, missed]))
    assert (found["hit_rate"], found["wrong_hits"], found["false_hit_rate"]) == (0.5, 1, 0.5)
    assert found["wrong_by_reason"] == {"verified": 1}
    assert found["tiers"] == {"mid": 0.5}
    assert found["wrong_elsewhere"] == 0


def test_a_run_costs_what_every_call_did_and_lost_requests_have_no_latency() -> None:
    lost = Answer(0.0, 100.0, 503, None, {})
    found = of_run(run([answered(), lost], [call(), call(model="gpt-3.5-turbo"), call(ok=False)]), FILE.config)
    assert found["usd"] == pytest.approx(2 * 0.09 + 0.002)
    assert (found["reliability"], found["mean_s"], found["failed_calls"]) == (0.5, 1.01, 1)


def test_tokens_are_cut_by_what_tiers_answered_alone() -> None:
    before = run([answered(usage=(10, 100)), answered(usage=(10, 100))], [call()])
    after = run([answered(usage=(20, 40), cache="miss"), answered(usage=(20, 100), cache="hit")], [call()])
    assert token_cut(before, after) == pytest.approx({"answers": 0.6, "prompts_too": 1 - 60 / 110, "bought": 0.0})


def test_what_a_path_takes_is_said_if_it_was_taken_often_enough() -> None:
    hits = [answered(cache="hit", cache_reason="exact")] * 5 + [answered(cache="hit", cache_reason="verified")] * 4
    assert overheads(run(hits)) == {"exact_hit_s": 0.01}


def test_a_path_s_own_time_is_as_unsure_as_stretches_of_misses_are_unlike() -> None:
    misses = [answered(cache="miss")] * 120
    took = [Seconds(1.0, own) for own in (0.02, 0.03, 0.04) for _ in range(40)]
    found = overheads(Run([ASKED] * 120, misses, took, []))
    assert found == {"miss_s": 0.03, "own_error": pytest.approx(1.96 / 3, abs=1e-3)}
    assert "own_error" not in overheads(run(misses[:119]))


def test_a_measured_figure_is_within_the_intervals_or_the_promise_is_not_kept() -> None:
    cache = {"hit_rate": 0.4, "semantic": 0.1, "measured_false_hits": {"of_semantic_hits": [0.02, 0.0, 0.08]}}
    cache["expected_false_hits"] = None
    shown = {"cache": cache, "intervals": {"hit_rate": [0.4, 0.38, 0.42], "tiers": {"top": [0.03, 0.02, 0.04]}}}
    agreed = agreement(shown, {"hit_rate": 0.41, "tier top": 0.05, "false_hit_rate": 0.019})
    assert {name: pair["within"] for name, pair in agreed.items()} == {
        "hit_rate": True,
        "false_hit_rate": True,
        "tier top": False,
    }
    assert all_within({name: agreed[name] for name in ("hit_rate", "false_hit_rate")})
    assert not all_within(agreed)


def test_the_log_of_a_run_has_what_an_application_would_know(tmp_path: Path) -> None:
    lost = Answer(0.0, 1.0, 0, None, {})
    write_log(tmp_path / "log.jsonl", run([answered(), lost]))
    (_, first), (_, second) = read_rows(tmp_path / "log.jsonl", "time", "request", "response", "latency_s", "status")
    assert first["request"] == ASKED.body(BEFORE)
    assert first["response"]["usage"] == {"prompt_tokens": 30, "completion_tokens": 10}
    assert (first["latency_s"], first["status"], second["status"]) == (1.01, 200, 503)


def test_the_upstreams_are_as_fast_as_the_replay_assumes() -> None:
    wanted = script(FILE, [ASKED], 10, 0)
    assert wanted.paces[BEFORE] == wanted.paces["gpt-4"] == Pace(0.5, 24)
    assert set(wanted.paces) == {BEFORE, *FILE.config.prices()}
    assert wanted.answers == {ASKED.text: ("m000007", 40)}


def test_the_replay_is_told_what_the_gateway_itself_takes(tmp_path: Path) -> None:
    told = with_overheads(FILE, {"miss_s": 0.05}, tmp_path).config.replay
    assert (told.miss_s, told.exact_hit_s) == (0.05, FILE.config.replay.exact_hit_s)
    assert told.latency == FILE.config.replay.latency


def test_the_table_says_of_each_aim_whether_it_was_reached() -> None:
    cache = of_cache(run([answered(cache="hit", cache_reason="exact")] + [answered(cache="miss", tier="mid")] * 3))
    figures = of_run(run([answered()] * 4, [call()]), FILE.config)
    aimed = {"cost_change": -0.93, "latency_ratio": 2.9}
    tokens = {"answers": 0.41, "prompts_too": 0.1, "bought": 0.5}
    shown = {
        row.what: row for row in rows({**aimed, "before": figures, "after": figures, "cache": cache, "tokens": tokens})
    }
    reached = {name: row.reached for name, row in shown.items() if row.reached is not None}
    assert reached == {
        "Cost, of the case's bill": True,
        "Average latency": False,
        "From the cache": False,
        "Wrong hits, of the hits": True,
        "Tokens of answers, by profiles": True,
        "Reliability": True,
    }
    assert shown["Cost, of the case's bill"].after == "$4,368"


def write(file: Path, *found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in found), "utf-8")


@asynccontextmanager
async def served(models: ScriptedModels) -> AsyncIterator[tuple[str, Any]]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", models.complete)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", lambda: taken(models)
    finally:
        await runner.cleanup()


async def taken(models: ScriptedModels) -> list[Call]:
    await asyncio.sleep(0)
    answer = await models.calls(None)  # type: ignore[arg-type]
    assert isinstance(answer.body, bytes)
    return msgspec.json.decode(answer.body, type=list[Call])
