"""A closed-loop client: a fixed number of connections, each asking again as soon as it has its answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import numpy as np


class UnexpectedAnswerError(Exception):
    """An answer that was not what the benchmark measures."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a client asks for, beside the prompt."""

    model: str = "auto"
    stream: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = Asking()


def play(
    url: str,
    prompt: Callable[[], str],
    concurrency: int,
    seconds: float,
    expected: Mapping[str, str] | None = None,
    asking: Asking = _PLAIN,
    most_off_path: float = 0.02,
) -> dict[str, float]:
    """Ask for `seconds` and return `p50_ms`, `p95_ms`, `p99_ms`, `rps`, `requests` and `off_path`.

    Args:
        url: Of a server with OpenAI's API, without `/v1`.
        prompt: Gives the next prompt.
        expected: Headers that show the path an answer took. Answers that took another are not counted: two questions
            made at random can come out alike. `off_path` is their share of all `requests`.

    Raises:
        UnexpectedAnswerError: A status other than 200, or a share on another path above `most_off_path`.
    """
    figures = asyncio.run(_play(url, prompt, concurrency, seconds, dict(expected or {}), asking))
    if figures["off_path"] > most_off_path:
        raise UnexpectedAnswerError(f"{figures['off_path']:.0%} of the answers took another path than {expected}")
    return figures


def ask(url: str, prompts: list[str], asking: Asking = _PLAIN) -> None:
    """Ask each prompt once, one after the other, so that the answers are in the cache."""
    asyncio.run(_ask(url, prompts, asking))


async def _ask(url: str, prompts: list[str], asking: Asking) -> None:
    async with aiohttp.ClientSession() as session:
        for prompt in prompts:
            await one(session, url, prompt, asking)


async def _play(
    url: str, prompt: Callable[[], str], concurrency: int, seconds: float, expected: dict[str, str], asking: Asking
) -> dict[str, float]:
    times: list[float] = []
    off_path = 0
    started = time.perf_counter()

    async def connection(session: aiohttp.ClientSession) -> None:
        nonlocal off_path
        while time.perf_counter() - started < seconds:
            asked = time.perf_counter()
            headers = await one(session, url, prompt(), asking)
            if all(headers.get(name) == value for name, value in expected.items()):
                times.append(time.perf_counter() - asked)
            else:
                off_path += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:
        await asyncio.gather(*(connection(session) for _ in range(concurrency)))
    elapsed = time.perf_counter() - started
    p50, p95, p99 = (1e3 * float(x) for x in np.percentile(times or [np.nan], [50, 95, 99]))
    figures = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "rps": len(times) / elapsed}
    count = len(times) + off_path
    return figures | {"requests": count, "off_path": off_path / count}


async def offer(
    url: str, prompt: Callable[[], str], rate: float, window_s: float, windows: int = 1
) -> AsyncGenerator[tuple[list[float], int], None]:
    """Ask so many times a second, at random, whatever comes back.

    Yields:
        After each window the milliseconds of the answers that came in it, and how many requests failed in it.
    """
    gaps = random.Random(2)
    times, failed = list[float](), 0

    async def asked(text: str) -> None:
        nonlocal failed
        started = time.perf_counter()
        try:
            await one(session, url, text, _PLAIN)
        except (UnexpectedAnswerError, aiohttp.ClientError, OSError):
            failed += 1
        else:
            times.append(1e3 * (time.perf_counter() - started))

    under_way: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun = due = time.perf_counter()
        for window in range(1, windows + 1):
            while due < begun + window * window_s:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                task = asyncio.create_task(asked(prompt()))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                due += gaps.expovariate(rate)
            yield times, failed
            times, failed = [], 0
        await asyncio.gather(*under_way)


async def one(session: aiohttp.ClientSession, url: str, prompt: str, asking: Asking) -> Mapping[str, str]:
    """Ask once and read all of the answer; return its headers.

    Raises:
        UnexpectedAnswerError: A status other than 200, or a stream without its end.
    """
    body: dict[str, Any] = {"model": asking.model, "messages": [{"role": "user", "content": prompt}]}
    body |= {**asking.fields, **({"stream": True} if asking.stream else {})}
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/chat/completions", data=msgspec.json.encode(body), headers=headers) as answer:
        text = await answer.read()
        if answer.status != 200 or (asking.stream and b"[DONE]" not in text):
            raise UnexpectedAnswerError(f"status {answer.status}: {text[:200]!r}")
        return answer.headers
