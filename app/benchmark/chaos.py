"""Requests while upstreams fail and parts are killed: what is answered by Tierwise, and by a bare `openai` client.

Both are asked by the same `openai` client with its default retries, the same questions, of which a fifth repeats an
earlier one and two fifths are streamed. Every call of every API tier fails at the given rate. While Tierwise is asked,
Redis, one replica of each deployment and the whole local tier are killed in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openai

from app.benchmark.fates import Fates, ask, cause, kill, questions, replica_pids, upstream_state
from app.benchmark.faults import answer_to
from app.benchmark.overhead import scripted_upstream
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


def measure(requests: int, rate: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask both, and return `tierwise|openai_client` . `answered_share|wrong|lost|...`, and what was left under way."""
    file = read_serve_file(CONFIG)
    prompts = questions(requests)
    with scripted_upstream(file, "--faults", str(rate)) as upstream:
        say(f"{requests} requests by the bare client")
        bare = asyncio.run(_play(f"{upstream}/v1", prompts, lambda done: None))
        with tempfile.TemporaryDirectory() as state:
            launcher = Launcher(file, say, Path(state))
            try:
                launcher.start()
                watch = threading.Thread(target=_watch, args=(launcher,), daemon=True)
                watch.start()
                say(f"{requests} requests by Tierwise")
                kills = _Kills(launcher, len(prompts), say)
                ours = asyncio.run(_play(f"{file.url}/v1", prompts, kills.at))
                time.sleep(6)  # longer than any call may take that nobody waits for
                left = {"gateway": launcher.requests_under_way(), "upstream": upstream_state(upstream)["under_way"]}
            finally:
                launcher.stop()
        faults = upstream_state(upstream)["calls"]
    return {
        "tierwise": ours.figures() | {"killed": kills.done},
        "openai_client": bare.figures(),
        "left_under_way": left,
        "upstream_calls": faults,
    }


async def _play(url: str, prompts: Sequence[tuple[str, bool]], at: Callable[[int], None]) -> Fates:
    fates = Fates()
    waiting = iter(prompts)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=_TIMEOUT_S) as client:

        async def ask_on() -> None:
            for prompt, stream in waiting:
                fates.asked += 1
                await asyncio.to_thread(at, fates.asked)
                started = time.perf_counter()
                try:
                    text, path = await ask(client, prompt, stream)
                except Exception as error:
                    fates.lost[cause(error, stream)] += 1
                    continue
                fates.times_s.append(time.perf_counter() - started)
                if text == answer_to(prompt):
                    fates.answered += 1
                else:
                    fates.wrong[path] += 1
                    fates.examples.append((prompt, text))

        await asyncio.gather(*(ask_on() for _ in range(_CONCURRENCY)))
    return fates


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
                kill(pids)
                self.done[name] = len(pids)
                self._say(f"after {asked} requests: killed {name} ({len(pids)})")

    def _pids(self, name: str) -> list[int]:
        if name == "Redis":
            return [pid for pid in [self._launcher.redis_pid] if pid]
        api = self._launcher.serve_api()
        assert api is not None
        return replica_pids(api, name)


def _watch(launcher: Launcher) -> None:
    with contextlib.suppress(ConfigError):
        launcher.watch()
