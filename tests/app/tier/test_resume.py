"""A stream that broke off goes on where a second answer begins as the first did, and only there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from app.errors import RestingError, UpstreamError
from app.schema import StreamPart
from app.tier.resume import resuming
from tests.app.tier.targets import Clock, ScriptedProvider

BODY: dict[str, Any] = {"model": "mid", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


class Breaking(ScriptedProvider):
    """Streams each of the answers it is given, cut in pieces; `None` among the pieces breaks it off."""

    def __init__(self, *answers: list[str | None]) -> None:
        super().__init__()
        self.answers = list(answers)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        self.calls += 1
        for piece in self.answers.pop(0):
            if piece is None:
                raise UpstreamError("cut", "openai")
            yield StreamPart([{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}], "small")
        yield StreamPart([{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}], "small")


async def streamed(provider: Breaking, **fields: Any) -> tuple[str, list[str | None]]:
    body = {**BODY, **fields}
    choices = [c["choices"][0] async for part in resuming(body, lambda: provider.stream(body)) for c in part.chunks]
    return "".join(c["delta"].get("content", "") for c in choices), [c["finish_reason"] for c in choices][-1:]


@pytest.mark.parametrize("second", [["one ", "two ", "three"], ["one two three"], ["o", "ne two t", "hree"]])
async def test_the_client_gets_each_word_once(second: list[str | None]) -> None:
    provider = Breaking(["one ", "two ", None], second)
    assert await streamed(provider) == ("one two three", ["stop"])
    assert provider.calls == 2


async def test_a_second_answer_that_breaks_off_too_is_gone_on_with() -> None:
    provider = Breaking(["one ", None], ["one ", "two ", None], ["one two ", "three"])
    assert await streamed(provider) == ("one two three", ["stop"])


async def test_the_third_answer_is_the_last() -> None:
    provider = Breaking(*[["one ", None]] * 4)
    with pytest.raises(UpstreamError, match="cut"):
        await streamed(provider)
    assert provider.calls == 3


@pytest.mark.parametrize("second", [["one ", "four"], ["one"]], ids=["another answer", "a shorter one"])
async def test_a_second_answer_that_does_not_go_on_ends_the_stream(second: list[str | None]) -> None:
    provider = Breaking(["one ", "two ", None], second)
    with pytest.raises(UpstreamError):
        await streamed(provider)
    assert provider.calls == 2


class Resting(Breaking):
    """A Breaking whose targets rest after the first answer, `times` times."""

    def __init__(self, times: int, *answers: list[str | None]) -> None:
        super().__init__(*answers)
        self.times = times

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        if self.calls and self.times:
            self.times -= 1
            raise RestingError("all targets rest", "mid", 4.0, passes=False)
        async for part in super().stream(body):
            yield part


async def test_targets_that_rest_are_waited_for() -> None:
    provider, clock = Resting(2, ["one ", None], ["one ", "two"]), Clock()
    parts = [part async for part in resuming(BODY, lambda: provider.stream(BODY), clock.sleep)]
    assert (len(parts), clock.slept) == (3, [4.0, 4.0])


async def test_targets_that_rest_for_long_end_the_stream() -> None:
    provider, clock = Resting(3, ["one ", None], ["one ", "two"]), Clock()
    with pytest.raises(RestingError):
        [part async for part in resuming(BODY, lambda: provider.stream(BODY), clock.sleep)]
    assert clock.slept == [4.0, 4.0]


async def test_a_tier_that_rests_before_the_first_part_leaves_the_request_to_the_next() -> None:
    provider, clock = Resting(1), Clock()
    provider.calls = 1
    with pytest.raises(RestingError):
        [part async for part in resuming(BODY, lambda: provider.stream(BODY), clock.sleep)]
    assert clock.slept == []


@pytest.mark.parametrize("fields", [{"temperature": 0.7}, {"n": 2}, {"tools": [{}]}])
async def test_nothing_is_asked_twice_where_the_answers_would_differ(fields: dict[str, Any]) -> None:
    provider = Breaking(["one ", None], ["one ", "two"])
    with pytest.raises(UpstreamError):
        await streamed(provider, **fields)
    assert provider.calls == 1
