from __future__ import annotations

from typing import Any

import pytest

from app.cache import RedisConfig
from app.conversations import RedisConversations, begun, continued
from app.embedded_redis import EmbeddedRedis

ASKED: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
SAID = {"role": "assistant", "content": "Because."}
NEXT = {"role": "user", "content": "And then?"}


def test_a_first_turn_goes_on_with_nothing() -> None:
    assert begun(ASKED, "acme") is None


@pytest.mark.parametrize(
    "messages",
    [
        [*ASKED, SAID, NEXT],
        [*ASKED, {**SAID, "content": " Because.\n"}, NEXT],
        [ASKED[1], SAID, NEXT],
        [{"role": "user", "content": "Earlier"}, SAID, *ASKED, SAID, NEXT],
    ],
    ids=["as it was", "stripped by the client", "old turns cut off", "longer"],
)
def test_the_next_turn_is_known_by_the_last_question_and_its_answer(messages: list[dict[str, Any]]) -> None:
    assert begun(messages, "acme") == continued(ASKED, SAID, "acme")


@pytest.mark.parametrize(
    ("messages", "tenant"),
    [
        ([*ASKED, SAID, NEXT], "other"),
        ([*ASKED, {**SAID, "content": "Who knows."}, NEXT], "acme"),
        ([{"role": "user", "content": "Why not?"}, SAID, NEXT], "acme"),
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


@pytest.mark.redis
async def test_redis_remembers_a_tier_for_its_time(redis: EmbeddedRedis) -> None:
    store = RedisConfig().build(url=redis.url)
    conversations = RedisConversations(store, 60)
    assert await conversations.tier("a") is None
    await conversations.remember("a", "mid")
    assert await conversations.tier("a") == "mid"
    assert 0 < await store.run(lambda client: client.ttl("tw:talk:a")) <= 60
    await store.close()
