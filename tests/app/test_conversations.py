from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from app.cache import RedisConfig
from app.cache.store import RedisStore
from app.conversations import RedisConversations, begun, continued
from app.dialects.messages_request import read_messages
from app.embedded_redis import EmbeddedRedis

ASKED: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
SAID = {"role": "assistant", "content": "Because."}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
NEXT = {"role": "user", "content": "And then?"}


def test_a_first_turn_goes_on_with_nothing() -> None:
    assert begun(ASKED, "acme") is None


@pytest.mark.parametrize(
    "messages",
    [
        [*ASKED, SAID, NEXT],
        [*ASKED, {**SAID, "content": " Because.\n"}, NEXT],
        [*ASKED, {**SAID, "content": [{"type": "text", "text": "Because"}, {"type": "text", "text": "."}]}, NEXT],
        [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, SAID, NEXT],
        [ASKED[1], SAID, NEXT],
        [{"role": "user", "content": "Earlier"}, SAID, *ASKED, SAID, NEXT],
    ],
    ids=[
        "as it was",
        "stripped by the client",
        "an answer in parts",
        "a question in parts",
        "old turns cut off",
        "longer",
    ],
)
def test_the_next_turn_is_known_by_the_last_question_and_its_answer(messages: list[dict[str, Any]]) -> None:
    assert begun(messages, "acme") == continued(ASKED, SAID, "acme")


@pytest.mark.parametrize(
    ("messages", "tenant"),
    [
        ([*ASKED, SAID, NEXT], "other"),
        ([*ASKED, {**SAID, "content": "Who knows."}, NEXT], "acme"),
        ([{"role": "user", "content": "Why not?"}, SAID, NEXT], "acme"),
        ([{"role": "user", "content": [{"type": "text", "text": "Why?"}, IMAGE]}, SAID, NEXT], "acme"),
    ],
)
def test_another_conversation_has_another_name(messages: list[dict[str, Any]], tenant: str) -> None:
    assert begun(messages, tenant) != continued(ASKED, SAID, "acme")


def test_calls_of_tools_are_known_whatever_their_ids() -> None:
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    said = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    again = {**said, "tool_calls": [{"id": "b", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": "b", "content": "sunny"}
    assert begun([*ASKED, again, result], "acme") == continued(ASKED, said, "acme")


def test_calls_of_tools_are_known_by_their_arguments_however_they_are_written() -> None:
    def said(arguments: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": arguments}
        return {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]}

    compact = continued(ASKED, said('{"city":"Rome","days":2}'), "acme")
    assert begun([*ASKED, said('{"days": 2, "city": "Rome"}')], "acme") == compact
    assert begun([*ASKED, said('{"city": "Oslo", "days": 2}')], "acme") != compact
    assert begun([*ASKED, said("no JSON")], "acme") == continued(ASKED, said("no JSON"), "acme")


@pytest.mark.parametrize("function", [None, "weather", {"name": "weather"}, {"name": "weather", "arguments": {}}])
def test_a_call_that_is_none_is_no_failure(function: Any) -> None:
    said = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    assert begun([*ASKED, said], "acme") == continued(ASKED, said, "acme")


def test_a_turn_of_anthropics_goes_on_with_its_call_of_a_tool() -> None:
    called = {"name": "weather", "arguments": '{"city":"Rome"}'}
    said = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "a", "function": called}]}
    use = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}}
    turns = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "sunny"}]},
    ]
    body, _ = read_messages(msgspec.json.encode({"model": "auto", "max_tokens": 9, "messages": turns}))
    assert begun(body["messages"], "acme") == continued(ASKED, said, "acme")


@pytest.fixture
async def store(redis: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    store = RedisConfig().build(url=redis.url)
    await store.run(lambda client: client.flushall())
    yield store
    await store.close()


@pytest.mark.redis
async def test_redis_remembers_a_tier_for_its_time(store: RedisStore) -> None:
    conversations = RedisConversations(store, 60)
    assert await conversations.tiers("a") == frozenset()
    await conversations.remember("a", "mid")
    assert await conversations.tiers("a") == {"mid"}
    assert await store.run(lambda client: client.ttl("tw:tiers:a")) == 60


@pytest.mark.redis
async def test_conversations_of_one_name_neither_lower_nor_prolong_each_others_tier(store: RedisStore) -> None:
    await RedisConversations(store, 30).remember("a", "top")
    await RedisConversations(store, 60).remember("a", "local")
    assert await RedisConversations(store, 60).tiers("a") == {"top", "local"}
    assert await store.run(lambda client: client.httl("tw:tiers:a", "top", "local")) == [30, 60]


@pytest.mark.redis
async def test_the_same_turn_again_renews_its_tier_but_not_at_once(store: RedisStore) -> None:
    clock = [0.0]
    conversations = RedisConversations(store, 48, lambda: clock[0])
    await conversations.remember("a", "mid")
    await store.run(lambda client: client.delete("tw:tiers:a"))
    for seconds, tiers in ((1.9, set()), (2.0, {"mid"})):
        clock[0] = seconds
        await conversations.remember("a", "mid")
        assert await conversations.tiers("a") == tiers
