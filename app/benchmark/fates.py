"""What becomes of requests while things fail: asked by the official client, counted by fate."""

from __future__ import annotations

import contextlib
import json
import random
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
import psutil

from app.benchmark.prompts import fresh
from app.serve_api import ServeAPI


@dataclass
class Fates:
    """What became of requests.

    Attributes:
        lost: By cause.
        wrong: Answers that were not those of their question, or not all of it, by the path that they came by.
        examples: Of those, the questions and the answers.
    """

    asked: int = 0
    answered: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    times_s: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return them for the report."""
        times = sorted(self.times_s) or [0.0]
        return {
            "asked": self.asked,
            "answered_share": self.answered / max(self.asked, 1),
            "wrong": self.wrong.total(),
            "wrong_by_path": dict(self.wrong),
            "examples": self.examples[:5],
            "lost": dict(self.lost),
            "p50_s": round(times[len(times) // 2], 3),
            "p99_s": round(times[int(0.99 * len(times))], 3),
        }


async def ask(
    client: openai.AsyncOpenAI,
    prompt: str,
    stream: bool,
    temperature: float | None = 0.0,
    headers: Mapping[str, str] | None = None,
    on_begun: Callable[[], None] = lambda: None,
) -> tuple[str, str]:
    """Return the answer, and the path that it came by.

    Args:
        on_begun: Called once the gateway has begun its response.
    """
    asked: Any = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "extra_headers": headers}
    asked |= {} if temperature is None else {"temperature": temperature}
    raw = await client.chat.completions.with_raw_response.create(**asked, stream=stream)
    on_begun()
    path = f"{raw.headers.get('x-tierwise-tier')}: {raw.headers.get('x-tierwise-cache-reason')}"
    answer: Any = raw.parse()
    if not stream:
        return answer.choices[0].message.content or "", path
    text, ended = "", False
    async for chunk in answer:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            ended = ended or bool(choice.finish_reason)
    if not ended:
        raise ConnectionError("the stream ended before the answer")
    return text, path


def cause(error: Exception, stream: bool) -> str:
    """Say how a request was lost."""
    status = getattr(error, "status_code", None)
    said = f"status {status}" if status else type(error).__name__
    return f"{'streamed' if stream else 'whole'}: {said}: {str(error)[:80]}"


def questions(count: int, repeated: float = 0.2) -> list[tuple[str, bool]]:
    """Return prompts, and whether each is streamed.

    They differ by a number, so that the cache takes none for another: its judgement is measured elsewhere.

    Args:
        repeated: Share of them that were asked before.
    """
    draw, ask = random.Random(1), fresh(8)
    prompts: list[str] = []
    for i in range(count):
        again = prompts and draw.random() < repeated
        prompts.append(draw.choice(prompts) if again else f"Ticket {i}: {ask()}")
    return [(prompt, draw.random() < 0.4) for prompt in prompts]


def upstream_state(upstream: str) -> dict[str, Any]:
    """Ask a scripted upstream what was called, and what still is under way."""
    with urllib.request.urlopen(f"{upstream}/state", timeout=10) as answer:
        state: dict[str, Any] = json.load(answer)
        return state


def replica_pids(api: ServeAPI, deployment: str) -> list[int]:
    """Return the processes of a deployment's replicas."""
    (application,) = api.applications().values()
    return [replica["pid"] for replica in application["deployments"][deployment]["replicas"] if replica.get("pid")]


def kill(pids: Iterable[int]) -> None:
    """Kill processes; those that are gone are none."""
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
