"""Requests while upstreams fail and parts are killed: what is answered by Tierwise, and by a bare `openai` client.

Both are asked by the same `openai` client with its default retries, the same questions, of which a fifth repeats an
earlier one and two fifths are streamed. Every call of every API tier fails at the given rate. While Tierwise is asked,
Redis, one replica of each deployment and the whole local tier are killed in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil

from app.benchmark.faults import answer_to
from app.benchmark.overhead import scripted_upstream
from app.benchmark.prompts import fresh
from app.config import read_serve_file
from app.errors import ConfigError
from app.launch import Launcher

CONFIG = Path("configs/chaos.yaml")
_CONCURRENCY = 48
_TIMEOUT_S = 60.0
# What is killed once such a share of the requests has been asked: a deployment, and how many of its replicas.
_KILLS = (
    (0.15, "Redis", 1),
    (0.25, "Ingress", 1),
    (0.35, "Cache", 1),
    (0.45, "Classifier", 1),
    (0.55, "Tier-mid", 1),
    (0.65, "Tier-top", 1),
    (0.75, "Tier-local", 99),
)


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


def measure(requests: int, rate: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask both, and return `tierwise|openai_client` . `answered_share|wrong|lost|...`, and what was left under way."""
    file = read_serve_file(CONFIG)
    questions = _questions(requests)
    with scripted_upstream(file, "--faults", str(rate)) as upstream:
        say(f"{requests} requests by the bare client")
        bare = asyncio.run(_play(f"{upstream}/v1", questions, lambda done: None))
        with tempfile.TemporaryDirectory() as state:
            launcher = Launcher(file, say, Path(state))
            try:
                launcher.start()
                watch = threading.Thread(target=_watch, args=(launcher,), daemon=True)
                watch.start()
                say(f"{requests} requests by Tierwise")
                kills = _Kills(launcher, len(questions), say)
                ours = asyncio.run(_play(f"{file.url}/v1", questions, kills.at))
                time.sleep(6)  # longer than any call may take that nobody waits for
                left = {"gateway": launcher.requests_under_way(), "upstream": _state(upstream)["under_way"]}
            finally:
                launcher.stop()
        faults = _state(upstream)["calls"]
    return {
        "tierwise": ours.figures() | {"killed": kills.done},
        "openai_client": bare.figures(),
        "left_under_way": left,
        "upstream_calls": faults,
    }


async def _play(url: str, questions: Sequence[tuple[str, bool]], at: Callable[[int], None]) -> Fates:
    fates = Fates()
    waiting = iter(questions)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=_TIMEOUT_S) as client:

        async def ask_on() -> None:
            for prompt, stream in waiting:
                fates.asked += 1
                await asyncio.to_thread(at, fates.asked)
                started = time.perf_counter()
                try:
                    text, path = await _ask(client, prompt, stream)
                except Exception as error:
                    fates.lost[_cause(error, stream)] += 1
                    continue
                fates.times_s.append(time.perf_counter() - started)
                if text == answer_to(prompt):
                    fates.answered += 1
                else:
                    fates.wrong[path] += 1
                    fates.examples.append((prompt, text))

        await asyncio.gather(*(ask_on() for _ in range(_CONCURRENCY)))
    return fates


async def _ask(client: openai.AsyncOpenAI, prompt: str, stream: bool) -> tuple[str, str]:
    """Return the answer, and the path that it came by."""
    asked: Any = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    raw = await client.chat.completions.with_raw_response.create(**asked, stream=stream)
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


def _cause(error: Exception, stream: bool) -> str:
    status = getattr(error, "status_code", None)
    said = f"status {status}" if status else type(error).__name__
    return f"{'streamed' if stream else 'whole'}: {said}: {str(error)[:80]}"


def _questions(count: int) -> list[tuple[str, bool]]:
    """Return prompts, and whether each is streamed.

    They differ by a number, so that the cache takes none for another: its judgement is measured elsewhere.
    """
    draw, ask = random.Random(1), fresh(8)
    prompts: list[str] = []
    for i in range(count):
        again = prompts and draw.random() < 0.2
        prompts.append(draw.choice(prompts) if again else f"Ticket {i}: {ask()}")
    return [(prompt, draw.random() < 0.4) for prompt in prompts]


class _Kills:
    """Kills parts at their time.

    Attributes:
        done: What was killed, and how many processes.
    """

    def __init__(self, launcher: Launcher, requests: int, say: Callable[[str], None]) -> None:
        self._launcher = launcher
        self._say = say
        self._due = [(int(share * requests), name, count) for share, name, count in _KILLS]
        self._lock = threading.Lock()
        self.done: dict[str, int] = {}

    def at(self, asked: int) -> None:
        """Kill what is due after so many requests."""
        with self._lock:
            while self._due and asked >= self._due[0][0]:
                _, name, count = self._due.pop(0)
                pids = self._pids(name)[:count]
                for pid in pids:
                    with contextlib.suppress(psutil.Error):
                        psutil.Process(pid).send_signal(signal.SIGKILL)
                self.done[name] = len(pids)
                self._say(f"after {asked} requests: killed {name} ({len(pids)})")

    def _pids(self, name: str) -> list[int]:
        if name == "Redis":
            return [pid for pid in [self._launcher.redis_pid] if pid]
        api = self._launcher.serve_api()
        assert api is not None
        (application,) = api.applications().values()
        return [replica["pid"] for replica in application["deployments"][name]["replicas"] if replica.get("pid")]


def _watch(launcher: Launcher) -> None:
    with contextlib.suppress(ConfigError):
        launcher.watch()


def _state(upstream: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{upstream}/state", timeout=10) as answer:
        state: dict[str, Any] = json.load(answer)
        return state
