from __future__ import annotations

import re
from typing import Any

import pytest

from app.cache import CacheConfig
from app.cache.policy import lookup_refusal, storable
from app.schema import ChatRequest, Completion
from tests.app.test_refusals import DECLINED
from tests.fakes import answer, chat

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TWO = Completion(
    {"choices": [*answer().body["choices"], *answer("cut", finish_reason="length").body["choices"]]}, "small"
)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (chat(), None),
        (chat(temperature=None), None),
        (chat(temperature=0.5), None),
        (chat(temperature=0.51), "temperature"),
        (chat(lookup=False), "cache-control"),
        (chat(store=False), None),
    ],
)
def test_a_lookup_is_refused_to_who_asks_for_variety_or_for_no_cache(request_: ChatRequest, reason: str | None) -> None:
    assert lookup_refusal(request_, CacheConfig(max_temperature=0.5)) == reason


@pytest.mark.parametrize(
    ("completion", "stored"),
    [
        (answer(), True),
        (answer("cut", finish_reason="length"), False),
        (answer("", finish_reason="content_filter"), False),
        (answer(" \n"), False),
        (answer(None), False),
        (answer("Let me look.", tool_calls=[CALL]), False),
        (answer("Sorry.", refusal="no"), False),
        (TWO, False),
        (Completion({"choices": []}, "small"), False),
    ],
)
def test_only_whole_answers_in_words_are_stored(completion: Completion, stored: bool) -> None:
    assert storable(chat(), completion, CacheConfig()) is stored


def calls(finish_reason: str = "tool_calls", call: dict[str, Any] = CALL, **message: Any) -> Completion:
    return answer(None, tool_calls=[CALL, call], finish_reason=finish_reason, **message)


@pytest.mark.parametrize(
    ("completion", "stored"),
    [
        (calls(), True),
        (calls("stop"), True),  # the request named the function
        (answer("Let me look.", tool_calls=[CALL], finish_reason="tool_calls"), True),
        (answer(), True),
        (calls("length"), False),
        (calls("content_filter"), False),
        (calls(refusal="no"), False),
        (calls(call={**CALL, "function": {"name": "weather", "arguments": '{"city": "Ber'}}), False),
        (calls(call={**CALL, "function": {"name": "", "arguments": "{}"}}), False),
        (calls(call={"type": "function", "function": CALL["function"]}), False),
        (calls(call={"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls"}}), False),
        (answer(None, finish_reason="tool_calls"), False),
    ],
)
def test_whole_calls_of_tools_are_stored_where_the_operator_wants_it(completion: Completion, stored: bool) -> None:
    assert storable(chat(), completion, CacheConfig(tool_calls=True)) is stored


@pytest.mark.parametrize(
    ("request_", "stored"),
    [
        (chat(temperature=0.5), True),
        (chat(temperature=0.51), False),
        (chat(store=False), False),
        (chat(lookup=False), True),
    ],
)
def test_an_answer_is_stored_for_a_request_that_allows_it(request_: ChatRequest, stored: bool) -> None:
    assert storable(request_, answer(), CacheConfig(max_temperature=0.5)) is stored


@pytest.mark.parametrize("text", DECLINED)
def test_an_answer_that_declines_is_not_stored(text: str) -> None:
    assert not storable(chat(), answer(text), CacheConfig())


@pytest.mark.parametrize(
    "text",
    [
        "Sorry is the word for it: sorrow and sorry share their first letters.",
        "I can help with that. First, loosen the screws.",
        "You cannot provide two keys. Remove one of them.",
        'Write: "I am sorry, but I can\'t help this week."',
        "I do not know of any. The list ends there.",
    ],
)
def test_an_answer_that_only_mentions_such_words_is_stored(text: str) -> None:
    assert storable(chat(), answer(text), CacheConfig())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What is the weather in Turin right now?", "volatile"),
        ("Where is my parcel?", "personal"),
        ("Make it shorter", "context"),
        ("Flip a coin", "random"),
        ("Who approved memo 12?", "pattern"),
        ("Who approved the memo?", None),
    ],
)
def test_a_prompt_whose_answer_is_not_for_others_bypasses_the_cache(text: str, reason: str | None) -> None:
    config = CacheConfig(uncacheable=(re.compile(r"memo \d+"),))
    assert lookup_refusal(chat(text), config) == reason
    assert storable(chat(text), answer(), config) is (reason is None)


def test_a_fresh_answer_is_not_stored_where_the_prompt_is_not_for_others() -> None:
    request = chat("Flip a coin", lookup=False)
    assert lookup_refusal(request, CacheConfig()) == "cache-control"
    assert not storable(request, answer("Heads."), CacheConfig())
