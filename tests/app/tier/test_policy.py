"""The policy of a tier: order, retries, their budget, rate limits, hedging, and what a client that goes away leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from app.errors import InvalidRequestError, UpstreamError, UpstreamTimeoutError
from app.schema import StreamPart
from app.tier import PolicyConfig, TargetPolicy
from app.tier.config import RetryConfig
from tests.app.tier.targets import Clock, ScriptedProvider, target

BODY: dict[str, Any] = {"model": "mid", "messages": [{"role": "user", "content": "hi"}]}


def down(**details: Any) -> UpstreamError:
    return UpstreamError("status 500", "openai", **details)


class Tier:
    """A tier over scripted providers.

    Attributes:
        results: Of each call, as the policy tells.
    """

    def __init__(
        self, *providers: ScriptedProvider, weights: tuple[float | None, ...] = (), limits: Any = None, **policy: Any
    ) -> None:
        self.clock = Clock()
        config = PolicyConfig(**policy)
        shares = weights or (None,) * len(providers)
        self.targets = [
            target(provider, config, self.clock, weight=weight, **(limits or {}))
            for provider, weight in zip(providers, shares, strict=True)
        ]
        self.results: list[tuple[str, str]] = []
        self.policy = TargetPolicy(
            "mid",
            self.targets,
            config,
            lambda label, result: self.results.append((label, result)),
            self.clock,
            self.clock.sleep,
        )

    async def ask(self, **fields: Any) -> str:
        completion = await self.policy.complete({**BODY, **fields})
        return str(completion.body["choices"][0]["message"]["content"])


async def test_a_target_that_fails_is_followed_by_the_next_without_a_pause() -> None:
    first, second = ScriptedProvider(down()), ScriptedProvider(model="medium")
    tier = Tier(first, second)
    assert await tier.ask() == "medium 1"
    assert tier.clock.slept == []
    assert tier.results == [("small", "failed"), ("medium", "ok")]


async def test_a_lone_target_is_asked_again_after_a_pause_that_grows() -> None:
    tier = Tier(ScriptedProvider(down(), down()))
    assert await tier.ask() == "small 3"
    first, second = tier.clock.slept
    assert 0 <= first <= 0.2
    assert 0 <= second <= 0.4


async def test_the_rounds_end() -> None:
    provider = ScriptedProvider(*[down()] * 9)
    with pytest.raises(UpstreamError):
        await Tier(provider, retry=RetryConfig(rounds=2)).ask()
    assert provider.calls == 2


@pytest.mark.parametrize(
    "error", [InvalidRequestError("bad", "messages"), down(passes=False)], ids=["a 400", "a wrong key"]
)
async def test_what_cannot_pass_is_not_tried_again(error: UpstreamError | InvalidRequestError) -> None:
    provider = ScriptedProvider(error)
    with pytest.raises(type(error)):
        await Tier(provider).ask()
    assert provider.calls == 1


async def test_retry_after_is_waited_for() -> None:
    tier = Tier(ScriptedProvider(down(retry_after_s=3.0)))
    assert await tier.ask() == "small 2"
    assert 3.0 <= tier.clock.slept[0] <= 3.2


async def test_a_target_that_asks_for_a_long_pause_is_left_to_the_next_tier() -> None:
    provider = ScriptedProvider(down(retry_after_s=60.0))
    tier = Tier(provider)
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await tier.ask()
    assert provider.calls == 1
    tier.clock.now += 60
    assert await tier.ask() == "small 2"


async def test_a_pause_that_ends_too_late_for_the_client_is_left_to_the_next_tier() -> None:
    provider = ScriptedProvider(down(retry_after_s=4.0))
    tier = Tier(provider)
    with pytest.raises(UpstreamError):
        await tier.policy.complete(BODY, within_s=3.0)
    assert (provider.calls, tier.clock.slept) == (1, [])


async def test_a_target_out_of_its_limits_is_passed_by_while_another_answers() -> None:
    first, second = ScriptedProvider(), ScriptedProvider(model="medium")
    tier = Tier(first, second)
    first.quota.seen({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"})
    assert await tier.ask() == "medium 1"
    tier.clock.now += 360
    assert await tier.ask() == "small 1"


async def test_retries_have_a_budget_so_that_a_storm_does_not_multiply() -> None:
    provider = ScriptedProvider(*[down()] * 1000)
    tier = Tier(provider, retry=RetryConfig(rounds=3, budget=0.1), breaker={"failures": 10_000})
    for _ in range(200):
        with pytest.raises(UpstreamError):
            await tier.ask()
    assert 200 < provider.calls <= 200 + 10 + 20


async def test_the_budget_of_retries_pays_for_calls_and_not_for_waiting() -> None:
    provider = ScriptedProvider()
    tier = Tier(provider, retry=RetryConfig(budget=0), breaker={"failures": 1000})
    for _ in range(20):
        provider.quota.wait(0.1)
        await tier.ask()
    provider.errors = [down()] * 100
    for _ in range(6):
        with contextlib.suppress(UpstreamError):
            await tier.ask()
    assert provider.calls == 20 + 5 * 3 + 1  # ten second calls are free


async def test_an_open_breaker_sends_the_request_on_at_once() -> None:
    provider = ScriptedProvider(*[down()] * 100)
    tier = Tier(provider, retry=RetryConfig(rounds=1))
    for _ in range(8):
        with pytest.raises(UpstreamError):
            await tier.ask()
    assert provider.calls == 5
    assert tier.clock.slept == []


async def test_weights_are_shares_and_a_target_without_one_is_for_the_rest() -> None:
    providers = [ScriptedProvider(model=name) for name in ("small", "medium", "spare")]
    tier = Tier(*providers, weights=(1, 3, None))
    answers = Counter([(await tier.ask()).split()[0] for _ in range(2000)])
    assert answers.keys() == {"small", "medium"}
    assert 0.7 < answers["medium"] / 2000 < 0.8
    for provider in providers[:2]:
        provider.errors = [down()]
    assert await tier.ask() == "spare 1"


async def test_a_model_that_is_named_is_asked_alone() -> None:
    first, second = ScriptedProvider(), ScriptedProvider(*[down()] * 3, model="medium")
    with pytest.raises(UpstreamError):
        await Tier(first, second).ask(model="medium")
    assert (first.calls, second.calls) == (0, 3)


async def test_all_of_it_takes_no_longer_than_it_may() -> None:
    provider = ScriptedProvider()
    provider.hang = asyncio.Event()
    with pytest.raises(UpstreamTimeoutError):
        await Tier(provider, total_s=0.01).ask()
    assert provider.closed == 1


async def test_a_slow_target_is_hedged_and_the_slower_call_is_cancelled_and_named() -> None:
    slow, fast = ScriptedProvider(), ScriptedProvider(model="medium")
    tier = Tier(slow, fast, hedge=True)
    for _ in range(20):
        assert (await tier.ask()).startswith("small")
    assert fast.calls == 0
    slow.hang = asyncio.Event()
    completion = await tier.policy.complete(BODY)
    assert (completion.target, completion.also) == ("medium", ("small",))
    assert slow.closed == 1


async def test_a_stream_that_fails_before_its_first_part_comes_from_the_next_target() -> None:
    tier = Tier(ScriptedProvider(down()), ScriptedProvider(model="medium"))
    assert [part.target async for part in tier.policy.stream(BODY)] == ["medium", "medium"]


async def test_a_client_that_goes_away_ends_the_upstreams_stream() -> None:
    provider = ScriptedProvider()
    stream = Tier(provider).policy.stream(BODY)
    await anext(stream)
    await stream.aclose()
    assert provider.closed == 1


async def test_a_client_that_goes_away_ends_both_calls_of_a_hedge() -> None:
    first, second = ScriptedProvider(), ScriptedProvider(model="medium")
    tier = Tier(first, second, hedge=True)
    for _ in range(20):
        await tier.ask()
    first.hang = second.hang = asyncio.Event()
    asked = asyncio.create_task(tier.ask())
    while not second.calls:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (first.closed, second.closed) == (1, 1)


async def test_a_stream_that_is_silent_for_too_long_ends_in_an_error() -> None:
    provider = ScriptedProvider()
    provider.hang = asyncio.Event()
    tier = Tier(provider, first_token_s=0.01, retry=RetryConfig(rounds=1))
    with pytest.raises(UpstreamTimeoutError, match=r"0\.01 s"):
        await anext(tier.policy.stream(BODY))


async def read(tier: Tier) -> None:
    async for _ in tier.policy.stream(BODY):
        pass


async def test_a_target_that_cuts_every_stream_is_left_alone() -> None:
    provider = ScriptedProvider()
    provider.cut = True
    tier = Tier(provider)
    for _ in range(5):
        with pytest.raises(UpstreamError, match="cut"):
            await read(tier)
    with pytest.raises(UpstreamError, match="rest"):
        await read(tier)
    assert provider.calls == 5


async def test_a_stream_that_tries_a_target_closes_its_breaker_at_its_end_alone() -> None:
    tier = Tier(ScriptedProvider())
    breaker = tier.targets[0].breaker
    breaker.heard(tier.clock.now + 1)
    tier.clock.now += 1
    stream = tier.policy.stream(BODY)
    await anext(stream)
    assert (breaker.state, breaker.allows()) == ("half-open", False)
    await stream.aclose()  # its client went away: the next one tries
    await read(tier)
    assert breaker.state == "closed"


async def test_a_stream_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dripping(ScriptedProvider):
        async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
            while True:
                yield StreamPart([{"choices": [{"delta": {"content": "word "}}]}], self.model)
                await asyncio.sleep(0.01)

    tier = Tier(Dripping(), stream_s=0.05, between_tokens_s=1)
    with pytest.raises(UpstreamTimeoutError, match=r"did not end in 0\.05 s"):
        await read(tier)
    assert tier.results == [("small", "ok"), ("small", "broke off: timeout")]


async def test_a_client_that_goes_while_limits_are_read_lets_the_next_request_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tier = Tier(ScriptedProvider())
    tier.targets[0].breaker.heard(tier.clock.now + 1)
    tier.clock.now += 1
    with monkeypatch.context() as patch:
        patch.setattr(tier.targets[0]._limit, "take", asyncio.Event().wait)
        asked = asyncio.create_task(tier.ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert await tier.ask() == "small 1"


async def test_the_tokens_of_a_stream_that_comes_in_one_part_are_counted() -> None:
    class AtOnce(ScriptedProvider):
        async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
            yield StreamPart([{"choices": []}, {"choices": [], "usage": {"total_tokens": 100}}], self.model)

    tier = Tier(AtOnce(), limits={"tokens_per_minute": 100})
    await read(tier)
    with pytest.raises(UpstreamError, match="rest"):
        await read(tier)
