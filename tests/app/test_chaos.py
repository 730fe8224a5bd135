"""The scripted upstream that fails: every fault is one, an answer is its question's, and a gateway loses none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import Any

import pytest
from aiohttp import web

from app.benchmark.faults import KINDS, FaultyUpstream, answer_to
from app.config import GatewayConfig
from app.controller import TrafficController
from app.errors import UnavailableError, UpstreamError
from app.providers import OpenAIProviderConfig
from app.schema import Completion, Outcome, StreamPart
from app.tier import PolicyConfig, Target, TargetPolicy
from app.tier.config import RetryConfig
from app.tier.limits import RateLimit
from app.tier.resume import resuming
from app.wire import ChunkAssembler
from tests.fakes import FakeExactCache, chat, controller

BODY = {"model": "small", "messages": [{"role": "user", "content": "Why?"}], "temperature": 0}


@asynccontextmanager
async def served(upstream: FaultyUpstream) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.complete)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


class Always(FaultyUpstream):
    """Fails each time by one kind of fault."""

    def __init__(self, kind: str) -> None:
        super().__init__(1.0)
        self._kind = kind

    def _next(self) -> tuple[str, float]:
        return self._kind, 0.0


async def asked(upstream: FaultyUpstream, stream: bool) -> str:
    async with served(upstream) as url:
        provider = OpenAIProviderConfig(model="small", base_url=url, api_key_env=None, timeout_s=1.5).build()
        try:
            if not stream:
                return str((await provider.complete(BODY)).body["choices"][0]["message"]["content"])
            parts = [part async for part in resuming(BODY, lambda: provider.stream(BODY))]
        finally:
            await provider.aclose()
    choices = [choice for part in parts for chunk in part.chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("stream", [False, True])
async def test_without_faults_every_answer_is_its_questions(stream: bool) -> None:
    assert await asked(FaultyUpstream(0.0), stream) == answer_to("Why?")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "drip"])
async def test_every_fault_is_an_upstreams_error_and_never_a_wrong_answer(kind: str, stream: bool) -> None:
    upstream = Always(kind)
    with pytest.raises(UpstreamError):
        await asked(upstream, stream)
    assert upstream.calls[kind] >= 1


class Quick(FaultyUpstream):
    """Fails as often, but answers in milliseconds."""

    def _next(self) -> tuple[str, float]:
        kind, wait_s = super()._next()
        return kind, wait_s / 50

    async def _pause(self, kind: str, done: float) -> None:
        await asyncio.sleep(0.02 if kind == "drip" else 0)


class Tier:
    """A tier of two targets of an upstream, whose streams go on after they break off, as over a handle."""

    def __init__(self, name: str, url: str) -> None:
        policy = PolicyConfig(retry=RetryConfig(base_s=0.02), first_token_s=1, between_tokens_s=1)
        configs = [OpenAIProviderConfig(model=f"{name}-{i}", base_url=url, api_key_env=None, timeout_s=1) for i in "ab"]
        self.targets = [Target(config, config.build(), policy, RateLimit(config, name)) for config in configs]
        self._policy = TargetPolicy(name, self.targets, policy)

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        return await self._policy.complete(body, within_s)

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        async with aclosing(resuming(body, lambda: self._policy.stream(body, within_s))) as parts:
            async for part in parts:
                yield part


async def text_of(gateway: TrafficController, prompt: str, stream: bool) -> str:
    answer = await (gateway.stream if stream else gateway.handle)(chat(prompt, temperature=0, stream=stream))
    if isinstance(answer, Outcome):
        return str(answer.completion.body["choices"][0]["message"]["content"])
    assembler = ChunkAssembler()
    async for part in answer.parts:
        for chunk in part.chunks:
            assembler.add(chunk)
    return str(assembler.completion()["choices"][0]["message"]["content"])


async def test_a_gateway_over_apis_of_which_three_calls_in_ten_fail_answers_all_and_nothing_wrong() -> None:
    upstream = Quick(0.3)
    async with served(upstream) as url:
        tiers = {name: Tier(name, url) for name in ("local", "mid", "top")}
        models = [
            {
                "name": name,
                "max_score": score,
                "targets": [{"model": f"{name}-{i}", "price": {"usd_per_1m_output_tokens": 1}} for i in "ab"],
            }
            for name, score in (("local", 0.3), ("mid", 0.7), ("top", 1.0))
        ]
        config = GatewayConfig.model_validate({"tiers": models})
        gateway = controller(FakeExactCache(), tiers, config=config)
        at_once = asyncio.Semaphore(32)

        async def ask(number: int) -> bool:
            prompt = f"Question {number}?"
            async with at_once:
                try:
                    text = await text_of(gateway, prompt, stream=number % 2 == 0)
                except (UnavailableError, UpstreamError):
                    return False
            assert text == answer_to(prompt)
            return True

        before = asyncio.all_tasks()
        answered = await asyncio.gather(*map(ask, range(100)))
        await gateway.drain()
        assert set(upstream.calls) == {"none", *KINDS}
        assert sum(answered) >= 99
        async with asyncio.timeout(5):
            while upstream.under_way:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for target in (target for tier in tiers.values() for target in tier.targets):
            await target.provider.aclose()
        assert {task for task in asyncio.all_tasks() - before if "app" in str(task.get_coro())} == set()
