"""The server classes, without Ray, over real HTTP upstreams."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from ray import serve

from app.asking import Asker
from app.errors import ContextLengthError, GatewayError, UnavailableError, UnfitError, UpstreamError
from app.routing import TierConfig
from app.schema import Completion, StreamPart
from deployments.handles import RemoteProvider
from deployments.servers import TierServer
from tests.fakes import answer, chat
from tests.upstream import Script, Upstream

BODY = {"model": "mid", "messages": [{"role": "user", "content": "hi"}]}


def server(upstream: Upstream, **second: object) -> TierServer:
    target = {"base_url": upstream.url, "api_key_env": None}
    targets = [{"model": "first", **target}, {"model": "second", **target, **second}]
    return TierServer(TierConfig.model_validate({"name": "mid", "max_score": 0.7, "targets": targets}))


async def test_a_tier_asks_its_next_target_when_one_fails() -> None:
    with Upstream() as upstream:
        upstream.scripts["first"] = Script(status=500)
        async with aclosing(server(upstream)) as tier:
            assert (await tier.complete(BODY)).target == "second"
            assert {part.target async for part in tier.stream(BODY)} == {"second"}


class Model:
    """A local model that answers as it is told."""

    def __init__(self, error: GatewayError | None) -> None:
        self._error = error

    async def complete(self, body: dict[str, Any], within_s: float) -> Completion:
        if self._error:
            raise self._error
        return answer("from here", "own")

    async def stream(self, body: dict[str, Any], within_s: float) -> AsyncGenerator[StreamPart, None]:
        if self._error:
            raise self._error
        yield StreamPart([{"id": "c", "choices": [{"index": 0, "delta": {"content": "from here"}}]}], "own")


def beside(upstream: Upstream, error: GatewayError | None = None, **target: object) -> TierServer:
    """A tier with a local model and a target, its handle real and of Serve's local testing mode."""
    targets = [{"model": "first", "base_url": upstream.url, "api_key_env": None, **target}]
    llm = {"model": "models/own", "device": "cpu"}
    tier = TierConfig.model_validate({"name": "mid", "max_score": 0.7, "llm": llm, "targets": targets})
    handle = serve.run(serve.deployment(Model, name="LLM-mid").bind(error), _local_testing_mode=True)
    return TierServer(tier, None, handle)


async def test_a_local_model_beside_targets_is_asked_first() -> None:
    with Upstream() as upstream:
        async with aclosing(beside(upstream)) as tier:
            assert (await tier.complete(BODY)).target == "own"
            assert {part.target async for part in tier.stream(BODY)} == {"own"}
            assert (await tier.complete({**BODY, "model": "first"})).target == "first"
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (UpstreamError("down", "vllm"), BODY),
        (ContextLengthError("too long"), BODY),
        (None, {**BODY, "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ],
    ids=["fails", "too small", "takes no tools"],
)
async def test_what_a_local_model_cannot_answer_the_targets_beside_it_do(
    error: GatewayError | None, body: dict[str, Any]
) -> None:
    with Upstream() as upstream:
        async with aclosing(beside(upstream, error)) as tier:
            assert (await tier.complete(body)).target == "first"
            assert {part.target async for part in tier.stream(body)} == {"first"}


async def test_a_local_model_without_a_replica_is_passed_by_and_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[RemoteProvider] = []

    def wake(provider: RemoteProvider) -> bool:
        woken.append(provider)
        return False

    monkeypatch.setattr(RemoteProvider, "wake", wake)
    with Upstream() as upstream:
        async with aclosing(beside(upstream)) as tier:
            assert [(await tier.complete(BODY)).target for _ in range(2)] == ["first", "first"]
        assert len(woken) == 1  # once a second


async def test_a_local_model_has_its_share_of_the_requests_by_weight() -> None:
    with Upstream() as upstream:
        async with aclosing(beside(upstream, weight=1.0)) as tier:  # a target with a weight comes before one without
            assert (await tier.complete(BODY)).target == "first"


async def read(asker: Asker, tier: TierConfig) -> list[StreamPart]:
    (first, rest), _, _ = await asker.opened(chat("my secret words"), (tier,))
    return [first, *[part async for part in rest]]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "script",
    [
        Script(status=500, error={"type": "api_error", "message": "Invalid content: my secret words"}),
        Script(status=401, error={"type": "api_error", "message": "Incorrect API key: my-secret"}),
        Script(raw=b'event: error\ndata: {"error": {"type": "api_error", "message": "my secret words"}}\n\n'),
    ],
    ids=["status", "key", "in a stream"],
)
async def test_no_log_quotes_what_an_upstream_says(caplog: pytest.LogCaptureFixture, kind: str, script: Script) -> None:
    caplog.set_level(logging.INFO)
    with Upstream() as upstream:
        upstream.script = script
        target = {"kind": kind, "model": "first", "base_url": upstream.url, "api_key_env": None}
        tier = TierConfig.model_validate({"name": "mid", "max_score": 0.7, "targets": [target]})
        async with aclosing(TierServer(tier)) as server:
            asker = Asker({"mid": server}, {}, ())
            with pytest.raises(UnavailableError):
                await asker.whole(chat("my secret words"), (tier,))
            with pytest.raises(GatewayError) as error:  # a stream's error is logged by who passes it on
                await read(asker, tier)
    assert "tier mid failed: first: " in caplog.text
    assert "secret" not in caplog.text + error.value.message


async def test_a_named_target_is_the_only_one_asked() -> None:
    with Upstream() as upstream:
        upstream.scripts["first"] = Script(status=500)
        async with aclosing(server(upstream)) as tier:
            with pytest.raises(UpstreamError):
                await tier.complete({**BODY, "model": "first"})
        assert {request["model"] for request in upstream.requests} == {"first"}


async def test_a_named_target_without_its_key_is_not_answered_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with Upstream() as upstream:
        async with aclosing(server(upstream, api_key_env="NO_SUCH_KEY")) as tier:
            with pytest.raises(UpstreamError, match="second"):
                await tier.complete({**BODY, "model": "second"})
        assert upstream.requests == []


def mixed(upstream: Upstream) -> TierConfig:
    """Make a tier of a target of Anthropic's and one that names no kind."""
    target = {"base_url": upstream.url, "api_key_env": None}
    targets = [{"kind": "anthropic", "model": "first", **target}, {"model": "second", **target}]
    return TierConfig.model_validate({"name": "mid", "max_score": 0.7, "targets": targets})


async def test_what_one_target_does_not_give_the_next_one_is_asked_for() -> None:
    body = {**BODY, "logprobs": True}
    with Upstream() as upstream:
        async with aclosing(TierServer(mixed(upstream))) as tier:
            assert (await tier.complete(BODY)).target == "first"
            assert (await tier.complete(body)).target == "second"
            assert {part.target async for part in tier.stream(body)} == {"second"}
            with pytest.raises(UnfitError, match="`first` does not tell the odds"):
                await tier.complete({**body, "model": "first"})
            upstream.scripts["second"] = Script(status=500)
            with pytest.raises(UpstreamError, match="second: status 500"):
                await tier.complete(body)


def test_a_tier_takes_what_any_of_its_targets_takes() -> None:
    with Upstream() as upstream:
        both = mixed(upstream)
    alone = both.model_copy(update={"targets": both.targets[:1]})
    assert [target.kind for target in both.targets] == ["anthropic", "openai"]
    assert both.takes() == {"tools", "vision", "audio", "files", "choices", "logprobs"}
    assert alone.takes() == {"tools", "vision", "files"}
    assert alone.model_copy(update={"abilities": frozenset({"audio"})}).takes() == {"audio"}


async def test_a_tier_reports_the_limits_of_the_target_that_has_most_left() -> None:
    with Upstream() as upstream:
        target = {"base_url": upstream.url, "api_key_env": None}
        targets = [{"model": "first", **target, "requests_per_minute": 2}, {"model": "second", **target}]
        tier = {"name": "mid", "max_score": 0.7, "targets": targets}
        async with aclosing(TierServer(TierConfig.model_validate(tier))) as both:
            await both.complete(BODY)
            assert await both.record_autoscaling_stats() == {"limits_used": 0.0}
        async with aclosing(TierServer(TierConfig.model_validate({**tier, "targets": targets[:1]}))) as one:
            await one.complete(BODY)
            assert await one.record_autoscaling_stats() == {"limits_used": 0.5}
