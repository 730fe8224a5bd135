from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache import cache_key, request_key
from app.schema import CacheKey
from app.shaping import ProfileConfig, Shaper
from tests.fakes import chat

TOOLS = [{"type": "function", "function": {"name": "weather"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def key(text: str = "hello", *, tenant: str = "acme", **fields: Any) -> CacheKey:
    return cache_key({"model": "auto", "messages": [{"role": "user", "content": text}], **fields}, tenant)


def tool_turn(content: str) -> CacheKey:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    return key(messages=[call, {"role": "tool", "tool_call_id": "1", "content": content}])


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"user": "alice"},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"service_tier": "flex"},
        {"safety_identifier": "x"},
        {"prompt_cache_key": "x"},
        {"temperature": None},
    ],
)
def test_how_an_answer_is_delivered_does_not_separate(fields: dict[str, Any]) -> None:
    assert key(**fields) == key()


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": "globex"},
        {"model": "top"},
        {"temperature": 0.0},
        {"top_p": 0.5},
        {"max_tokens": 10},
        {"stop": ["."]},
        {"seed": 1},
        {"n": 2},
        {"tools": TOOLS},
        {"tool_choice": "none"},
        {"response_format": SCHEMA},
        {"response_format": {"type": "json_object"}},
        {"invented_tomorrow": 1},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]},
        {"messages": [{"role": "developer", "content": "hello"}]},
        {"messages": [{"role": "user", "content": "hello", "name": "alice"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, IMAGE]}]},
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": "hello"},
            ]
        },
    ],
)
def test_what_changes_the_answer_separates(fields: dict[str, Any]) -> None:
    assert key(**fields).scope != key().scope


SHAPER = Shaper(
    {
        "cheap": ProfileConfig(models=("cheap", "thrifty"), tiers=("local", "mid"), max_tokens=20),
        "frugal": ProfileConfig(models=("frugal",), tiers=("mid", "local"), max_tokens=20),
        "best": ProfileConfig(models=("best",), tiers=("top",), max_tokens=20),
        "free": ProfileConfig(models=("free",), max_tokens=20),
        "any": ProfileConfig(models=("any",)),
    },
    "auto",
)


def scope_of(model: str, **fields: Any) -> str:
    return request_key(SHAPER.shaped(chat(model=model, **fields), None)).scope


def test_profiles_that_differ_in_who_may_answer_alone_share_nothing() -> None:
    assert len({scope_of(model) for model in ("cheap", "best", "free", "any")}) == 4


def test_aliases_that_mean_the_same_share() -> None:
    assert scope_of("cheap") == scope_of("thrifty") == scope_of("frugal")
    assert scope_of("any") == scope_of("auto")


def test_a_streamed_request_shares_with_a_plain_one_under_a_profiles_limit() -> None:
    assert scope_of("cheap", stream=True) == scope_of("cheap")
    assert scope_of("cheap", max_tokens=20) != scope_of("cheap")  # a limit that cuts, and is not raised


asked_for = st.fixed_dictionaries(
    {
        "tiers": st.lists(st.sampled_from(["local", "mid", "top"]), max_size=3, unique=True),
        "max_tokens": st.sampled_from([None, 20, 80]),
        "temperature": st.sampled_from([None, 0.5]),
        "instruction": st.sampled_from([None, "Be brief."]),
    }
)


@given(one=asked_for, other=asked_for, streamed=st.tuples(st.booleans(), st.booleans()))
def test_two_profiles_share_a_scope_exactly_when_they_ask_the_same_of_the_same_tiers(
    one: dict[str, Any], other: dict[str, Any], streamed: tuple[bool, bool]
) -> None:
    shaper = Shaper({n: ProfileConfig(models=(n,), **p) for n, p in (("one", one), ("other", other))}, "auto")
    requests = [chat(model=n, stream=stream) for n, stream in zip(("one", "other"), streamed, strict=True)]
    scopes = {request_key(shaper.shaped(request, None)).scope for request in requests}
    assert (len(scopes) == 1) == ({**one, "tiers": set(one["tiers"])} == {**other, "tiers": set(other["tiers"])})


def test_the_order_of_fields_does_not_separate() -> None:
    assert key(seed=1, top_p=0.5) == key(top_p=0.5, seed=1)


def test_the_text_is_matched_within_a_scope() -> None:
    assert key("hello").scope == key("goodbye").scope
    assert key("hello").entry != key("goodbye").entry


def test_one_text_part_is_a_plain_text() -> None:
    assert key(messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}]) == key("hello")


@pytest.mark.parametrize(("one", "other"), [("hello", "  hello\n"), ("caf\u00e9", "cafe\u0301")])
def test_spaces_around_a_text_and_unicode_forms_do_not_separate(one: str, other: str) -> None:
    assert key(one).entry == key(other).entry


@pytest.mark.parametrize(("one", "other"), [("hello", "Hello"), ("a b", "a  b"), ("2 + 2", "2 + 3")])
def test_any_other_difference_of_texts_separates(one: str, other: str) -> None:
    assert key(one).entry != key(other).entry


def test_only_a_users_words_are_matched_by_meaning() -> None:
    assert key("hello").semantic
    assert not tool_turn("21 degrees").semantic
    assert not key("  ").semantic


def test_results_of_a_tool_are_matched_exactly() -> None:
    assert tool_turn("21 degrees").scope == tool_turn("22 degrees").scope
    assert tool_turn("21 degrees").entry != tool_turn("22 degrees").entry


identities = st.fixed_dictionaries(
    {
        "tenant": st.text(max_size=3),
        "system": st.text(max_size=3),
        "model": st.sampled_from(["auto", "mid", "top"]),
        "temperature": st.sampled_from([None, 0.0, 0.5, 1.0]),
        "tools": st.sampled_from([None, TOOLS, TOOLS * 2]),
        "response_format": st.sampled_from([None, SCHEMA, {"type": "text"}]),
    }
)
deliveries = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "user": st.text(),
        "metadata": st.dictionaries(st.text(), st.text(), max_size=2),
    },
)


def key_of(identity: dict[str, Any], text: str, delivery: dict[str, Any]) -> CacheKey:
    messages = [{"role": "system", "content": identity["system"]}, {"role": "user", "content": text}]
    options = {name: identity[name] for name in ("model", "temperature", "tools", "response_format")}
    return cache_key({"messages": messages, **options, **delivery}, identity["tenant"])


@given(one=identities, other=identities, text=st.text(), deliveries=st.tuples(deliveries, deliveries))
def test_two_requests_share_a_scope_exactly_when_nothing_that_changes_the_answer_differs(
    one: dict[str, Any], other: dict[str, Any], text: str, deliveries: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    scopes = {
        key_of(identity, text, delivery).scope for identity, delivery in zip((one, other), deliveries, strict=True)
    }
    assert (len(scopes) == 1) == (one == other)


@given(identity=identities, text=st.text(), deliveries=st.tuples(deliveries, deliveries))
def test_the_same_text_delivered_otherwise_has_the_same_key(
    identity: dict[str, Any], text: str, deliveries: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    one, other = deliveries
    assert key_of(identity, text, one) == key_of(identity, text, other)


@given(
    identity=identities,
    field=st.sampled_from(["tenant", "system", "model", "temperature", "tools", "response_format"]),
    value=st.sampled_from(["something else"]),
    texts=st.tuples(st.text(), st.text()),
)
def test_one_difference_is_enough_whatever_the_texts(
    identity: dict[str, Any], field: str, value: str, texts: tuple[str, str]
) -> None:
    changed = {**identity, field: value}
    assert key_of(identity, texts[0], {}).scope != key_of(changed, texts[1], {}).scope
