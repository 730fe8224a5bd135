"""The server classes, without Ray, over real HTTP upstreams."""

from __future__ import annotations

import logging
from contextlib import aclosing

import pytest

from app.asking import Asker
from app.errors import GatewayError, UnavailableError, UnfitError, UpstreamError
from app.routing import TierConfig
from app.schema import StreamPart
from deployments.servers import TierServer
from tests.fakes import chat
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
