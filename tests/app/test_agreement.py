from __future__ import annotations

from typing import Any

import pytest

from app.cache.agreement import settled_answers, told_apart
from tests.fakes import answer

JSON = {"response_format": {"type": "json_object"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


def call(arguments: str, name: str = "weather") -> dict[str, Any]:
    return {**CALL, "id": "call_2", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("request_body", "stored", "fresh", "same"),
    [
        ({}, "Paris.", " paris", True),
        (JSON, '{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        (JSON, '{"a": 1}', '{"a": 2}', False),
        (JSON, "no JSON", "no JSON at all", False),
        ({}, '```json\n{"a": 1}\n```', '{"a": 1}', True),
        ({}, '{"a": 1}', '{"a": 2}', False),
        ({}, "Yes, it is.", "No, it is not.", False),
        ({}, "Yes, it is.", "Yes, certainly.", None),
        ({}, "It is in Bern.", "Bern is where it is.", None),
    ],
)
def test_what_needs_no_reading_is_settled(
    request_body: dict[str, Any], stored: str, fresh: str, same: bool | None
) -> None:
    assert settled_answers(request_body, answer(stored).body, answer(fresh).body) is same


@pytest.mark.parametrize(
    ("fresh", "same"),
    [
        (answer(None, tool_calls=[call('{ "city":"Bern" }')]), True),
        (answer(None, tool_calls=[call('{"city": "Basel"}')]), False),
        (answer(None, tool_calls=[call('{"city": "Bern"}', "news")]), False),
        (answer(None, tool_calls=[call('{"city": "Bern"}'), call("{}", "news")]), False),
        (answer("It is sunny in Bern."), False),
    ],
)
def test_tool_calls_are_the_same_by_name_and_arguments(fresh: Any, same: bool) -> None:
    assert settled_answers({}, answer(None, tool_calls=[CALL]).body, fresh.body) is same


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        ("The capital of France is Paris.", "The capital of Germany is Berlin.", True),
        ("Water boils at 100 degrees.", "Water boils at 90 degrees.", True),
        ("Press the button to enable it.", "Press the button to disable it.", True),
        ("It opens at 9 and closes at 17.", "It opens at 9.", False),
        ("Run `git stash` first.", "First run git stash.", False),
        ("Shakespeare wrote Hamlet.", "Hamlet was written by Shakespeare.", False),
    ],
)
def test_facts_tell_answers_apart_and_wording_does_not(a: str, b: str, apart: bool) -> None:
    assert told_apart(a, b) is apart
