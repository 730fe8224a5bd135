from __future__ import annotations

import pytest

from app.cache import CacheConfig
from app.cache.policy import lookup_refusal, storable
from app.schema import ChatRequest, Completion
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
