"""`tierwise bench shape`: the shipped tasks, how answers are read, and the figures that are made of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.api import build_api
from app.benchmark.lenient import lenient, same, strict
from app.benchmark.running import on_free_port
from app.benchmark.shape import Answer, Scored, Task, figures, measure, read_tasks, scored, table
from app.config import read_serve_file
from app.errors import ConfigError
from app.jsonl import read_rows
from app.schema import PartStatus
from app.tenants import OpenTenants
from tests.fakes import FakeExactCache, FakeProvider, answer, controller
from tests.serving import served

CONFIG = Path(__file__).parents[2] / "configs" / "shape.yaml"
PROFILES = read_serve_file(CONFIG).config.profiles
TEAM = PROFILES["triage"].json_schema or {}
URGENT = PROFILES["urgent"].json_schema or {}
DATE = PROFILES["iso-date"].json_schema or {}
ITEMS = PROFILES["items"].json_schema or {}
INVOICE = PROFILES["invoice"].json_schema or {}
BILL = {"number": "A8812", "total": 1267.5, "currency": "EUR"}
TASK = Task("classification", "triage", [{"role": "user", "content": "Which team?"}], {"team": "billing"})


def test_a_hundred_tasks_of_three_kinds_are_shipped() -> None:
    kinds = Counter(task.kind for task in read_tasks())
    assert kinds == {"classification": 40, "extraction": 30, "formatting": 30}


def test_no_task_comes_twice() -> None:
    asked = {task.messages[-1]["content"] for task in read_tasks()}
    assert len(asked) == len(read_tasks())


def test_every_profile_of_the_configuration_has_ten_tasks() -> None:
    assert Counter(task.profile for task in read_tasks()) == dict.fromkeys(PROFILES, 10)


@pytest.mark.parametrize("task", read_tasks(), ids=lambda task: task.messages[-1]["content"][:40])
def test_what_a_task_expects_follows_the_schema_of_its_profile(task: Task) -> None:
    schema = PROFILES[task.profile].json_schema or {}
    assert strict(schema, msgspec.json.encode(task.expected).decode()) == task.expected


def test_a_quick_look_takes_tasks_of_every_kind() -> None:
    assert {task.kind for task in read_tasks(10)} == {"classification", "extraction", "formatting"}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (TEAM, "I would say this is for **Billing**.", {"team": "billing"}),
        (TEAM, '```json\n{"Team": "Billing", "why": "a charge"}\n```', {"team": "billing"}),
        (TEAM, "Either billing or sales.", None),
        (TEAM, "I do not know.", None),
        (URGENT, "Yes, somebody should come.", {"urgent": True}),
        (URGENT, "No.", {"urgent": False}),
        (URGENT, "Yes and no.", None),
        (DATE, "The date is 2021-04-03. So: 2021-04-03", {"date": "2021-04-03"}),
        (DATE, "3 April 2021", None),
        (ITEMS, "Here you are:\n\n1. **Flour**\n2. eggs,", {"items": ["Flour", "eggs"]}),
        (ITEMS, '{"items": [{"name": "flour"}, {"name": "eggs"}]}', None),
        (TEAM, "It is a sales ticket, so: Sales.", {"team": "sales"}),
        (ITEMS, "Items: flour, eggs, and butter.", {"items": ["flour", "eggs", "butter"]}),
        (INVOICE, 'Sure!\n{"number": "A8812", "total": "1,267.50 EUR", "currency": "EUR"} Anything else?', BILL),
        (INVOICE, "- **Number**: A8812\n- **Total**: 1267.5\n- Currency: euro (EUR)", BILL),
        (INVOICE, '{"number": 8812, "total": 3, "currency": "USD"}', {"number": "8812", "total": 3, "currency": "USD"}),
        (INVOICE, '{"number": "A8812"', None),
    ],
)
def test_an_answer_in_words_is_read_as_a_forgiving_script_would(schema: Any, text: str, value: Any) -> None:
    assert lenient(schema, text) == value


@pytest.mark.parametrize("text", ["billing", '```json\n{"team": "billing"}\n```', '{"team": "Billing"}', ""])
def test_a_shaped_answer_must_be_the_json_itself(text: str) -> None:
    assert not scored(TASK, TEAM, Answer(text, 10, 5), shaped=True).valid


@pytest.mark.parametrize(
    ("found", "expected", "alike"),
    [
        ({"team": "Billing."}, {"team": "billing"}, True),
        ({"team": "sales"}, {"team": "billing"}, False),
        ({"items": ["a map", "rope"]}, {"items": ["map", "rope"]}, True),
        ({"items": ["rope", "map"]}, {"items": ["map", "rope"]}, False),
        ({"items": ["map"]}, {"items": ["map", "rope"]}, False),
        ({"total": 214}, {"total": 214.0}, True),
        ({"total": "214"}, {"total": 214.0}, False),
        (None, {"team": "billing"}, False),
    ],
)
def test_a_value_is_correct_but_for_case_and_articles(found: Any, expected: Any, alike: bool) -> None:
    assert same(found, expected) is alike


def answered(text: str, tokens: int, *, shaped: bool) -> Scored:
    return scored(TASK, TEAM, Answer(text, 10, tokens, schema="valid" if shaped else None), shaped=shaped)


def test_the_figures_say_what_was_saved_and_what_the_answers_are_worth() -> None:
    before = [answered("billing, I think", 60, shaped=False), answered("Dear customer", 40, shaped=False)]
    after = [answered('{"team": "billing"}', 8, shaped=True), answered('{"team": "sales"}', 12, shaped=True)]
    found = figures(before, after)
    assert (found["token_cut"], found["valid_share"], found["correct_share"]) == (0.8, 1.0, 0.5)
    assert found["unshaped"]["valid_share"] == 0.5
    assert found["shaped"]["schema"] == {"valid": 2}
    assert found["correct_interval"] == [0.0945, 0.9055]  # Wilson's, of 1 in 2
    assert found["kinds"]["classification"]["token_cut"] == 0.8


def test_the_table_is_made_of_the_figures() -> None:
    before = [answered("billing, I think", 1200, shaped=False), answered("Dear customer", 40, shaped=False)]
    after = [answered('{"team": "billing"}', 8, shaped=True), answered('{"team": "sales"}', 12, shaped=True)]
    lines = table(figures(before, after)).splitlines()
    assert lines[2:4] == [
        "| all, 2 | as it comes | 1,240 | 50.0% | 50.0% (9.4% to 90.5%) |",
        "|  | with a profile | 20 (-98%) | 100.0% | 50.0% (9.4% to 90.5%) |",
    ]
    assert lines[4].startswith("| classification, 2 |")


def test_the_benchmark_runs_its_configuration_on_a_port_of_its_own_and_keeps_the_order_of_keys(tmp_path: Path) -> None:
    file = read_serve_file(CONFIG)
    moved = on_free_port(file, tmp_path)
    assert moved.port != file.port
    assert repr(moved.config) == repr(file.config)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("        triage:\n", "        other:\n", "needs profiles.triage with a `json_schema`"),
        ("{usd_per_1m_output_tokens: 1}", "{usd_per_1m_input_tokens: 1}", "must be one of output tokens alone"),
    ],
)
def test_a_configuration_that_cannot_be_measured_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "shape.yaml").write_text(CONFIG.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(ConfigError, match=message):
        measure(print, tmp_path / "shape.yaml")


async def test_tasks_are_asked_of_the_pinned_tier_past_the_cache_and_every_token_counts(
    cache: FakeExactCache, tmp_path: Path
) -> None:
    config = read_serve_file(CONFIG).config
    model = FakeProvider("smollm2-135m", answer('{"team": "billing"}', model="smollm2-135m"))

    async def states() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    controlled = controller(cache, {"local": model}, config=config)
    async with served(build_api(controlled, config, OpenTenants().build(), states, metrics)) as url:
        out = tmp_path / "answers.jsonl"
        found = await asyncio.to_thread(measure, print, number=10, target_url=f"{url}/v1", out=out)
    # each of ten tasks is of another profile, and what fits only one of them was asked for again
    assert found["unshaped"]["output_tokens"] == 10 * 50
    assert found["shaped"]["output_tokens"] == 50 + 9 * 2 * 50
    assert found["shaped"]["schema"] == {"valid": 1, "invalid": 9}
    assert found["valid_share"] == 0.1
    assert cache.gets == 0
    assert model.bodies[0]["max_tokens"] == 256
    assert "response_format" not in model.bodies[0]
    assert model.bodies[-1]["response_format"]["type"] == "json_schema"
    assert [row["turn"] for _, row in read_rows(out, "task", "answer")] == ["unshaped"] * 10 + ["shaped"] * 10
