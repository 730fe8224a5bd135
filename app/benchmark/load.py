"""A closed-loop client: a fixed number of connections, each asking again as soon as it has its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec
import numpy as np


class UnexpectedAnswerError(Exception):
    """An answer that was not what the benchmark measures."""


def play(
    url: str,
    prompt: Callable[[], str],
    concurrency: int,
    seconds: float,
    expected: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Ask for `seconds` and return `p50_ms`, `p95_ms` and `rps`.

    Args:
        url: Of a server with OpenAI's API, without `/v1`.
        prompt: Gives the next prompt.
        expected: Headers that show the path an answer took. Answers that took another are not counted: two questions
            made at random can come out alike.

    Raises:
        UnexpectedAnswerError: A status other than 200, or more than 2 % on another path.
    """
    return asyncio.run(_play(url, prompt, concurrency, seconds, dict(expected or {})))


def ask(url: str, prompts: list[str]) -> None:
    """Ask each prompt once, one after the other, so that the answers are in the cache."""
    asyncio.run(_ask(url, prompts))


async def _ask(url: str, prompts: list[str]) -> None:
    async with aiohttp.ClientSession() as session:
        for prompt in prompts:
            await _one(session, url, prompt)


async def _play(
    url: str, prompt: Callable[[], str], concurrency: int, seconds: float, expected: dict[str, str]
) -> dict[str, float]:
    times: list[float] = []
    others: list[dict[str, str]] = []
    started = time.perf_counter()

    async def connection(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() - started < seconds:
            asked = time.perf_counter()
            headers = await _one(session, url, prompt())
            if all(headers.get(name) == value for name, value in expected.items()):
                times.append(time.perf_counter() - asked)
            else:
                others.append(dict(headers))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:
        await asyncio.gather(*(connection(session) for _ in range(concurrency)))
    elapsed = time.perf_counter() - started
    if len(others) > 0.02 * len(times):
        raise UnexpectedAnswerError(f"{len(others)} answers, beside {len(times)}, took another path: {others[0]}")
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50_ms": 1e3 * float(p50), "p95_ms": 1e3 * float(p95), "rps": len(times) / elapsed}


async def _one(session: aiohttp.ClientSession, url: str, prompt: str) -> Mapping[str, str]:
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/chat/completions", data=msgspec.json.encode(body), headers=headers) as answer:
        text = await answer.read()
        if answer.status != 200:
            raise UnexpectedAnswerError(f"status {answer.status}: {text[:200]!r}")
        return answer.headers
