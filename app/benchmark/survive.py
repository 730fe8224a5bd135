"""2,000 requests in flight on three Ray nodes, and one part is killed: how many of them are lost.

The upstream waits in its answers until all requests have come to it; then the part is killed and the answers go on. So
every request is in flight at that moment: whole answers, streams that have begun, and streams that have not. Every
other one is at temperature 0, where a stream that is cut can be gone on with. The official client asks with its default
retries; those that it needed are counted too. The head runs the controller and HAProxy, each of the two workers a
replica of every deployment; Redis is a cluster of three masters with a replica each.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai

from app.benchmark.fates import ask, cause, questions, upstream_state
from app.benchmark.faults import answer_to
from app.benchmark.overhead import scripted_upstream
from app.benchmark.redis_cluster import redis_cluster
from app.benchmark.three_nodes import PARTS, ThreeNodes
from app.config import read_serve_file

CONFIG = Path("configs/survive.yaml")
_ARRIVING = 64  # requests on their way to the upstream; more would only queue
_STUCK_S = 60.0  # nothing more arrives
_QUIET_S = 3.0  # nothing more begins
_TIMEOUT_S = 240.0
_KINDS = ("whole", "stream not begun", "stream begun")


@dataclass
class _Request:
    """One request.

    Attributes:
        begun: Whether the response has begun.
        retried: Whether the client asked more than once.
        lost: Why, if it was.
        wrong: Whether its answer was another's, or not all of it.
    """

    prompt: str
    stream: bool
    begun: bool = False
    retried: bool = False
    lost: str | None = None
    wrong: bool = False

    @property
    def kind(self) -> str:
        """What it waits for."""
        return _KINDS[0] if not self.stream else _KINDS[1 + self.begun]


@dataclass
class _Counts:
    """Requests of a kind that were in flight when the part was killed.

    Attributes:
        failed: At the first attempt: what a client without retries would have lost.
        lost: For good.
    """

    in_flight: int = 0
    failed: int = 0
    lost: int = 0


@dataclass
class _Round:
    """What became of the requests in flight while a part was killed."""

    counts: dict[str, _Counts] = field(default_factory=lambda: {kind: _Counts() for kind in _KINDS})
    wrong: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Return them for the report."""
        kinds = {kind: vars(counts) for kind, counts in self.counts.items()}
        return {**kinds, "wrong": self.wrong, "causes": dict(self.causes)}


def measure(requests: int, say: Callable[[str], None], parts: Sequence[str] | None = None) -> dict[str, Any]:
    """Kill the parts in turn; return for each what became of the requests in flight, and how long it took."""
    file = read_serve_file(CONFIG)
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_cluster(Path(folder), replicas=True) as redis,
        scripted_upstream(file, "--held") as upstream,
        ThreeNodes(file, redis, say) as nodes,
    ):
        for part in parts or PARTS:
            _post(f"{upstream}/hold")
            asked = _Asked(file.url, upstream, questions(requests, repeated=0.0), part)
            found[part] = asyncio.run(asked.play(partial(nodes.kill, part), say))
            found[part]["whole_again_s"] = nodes.heal(part)
            say(f"{part}: {found[part]}")
    return found


class _Asked:
    """Requests that are all in flight when a part is killed.

    Args:
        part: What is killed; makes the prompts others than those of another round.
    """

    def __init__(self, url: str, upstream: str, asked: Sequence[tuple[str, bool]], part: str) -> None:
        self._url = url
        self._upstream = upstream
        self._requests = [_Request(f"{prompt} ({part})", stream) for prompt, stream in asked]
        self._tasks: list[asyncio.Task[None]] = []
        self._settled = 0

    async def play(self, kill: Callable[[], None], say: Callable[[str], None]) -> dict[str, Any]:
        """Ask all, kill once they are under way, and wait for the answers."""
        hooks = {"request": [self._note]}
        http = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(), event_hooks=hooks)
        async with openai.AsyncOpenAI(
            base_url=f"{self._url}/v1", api_key="none", timeout=_TIMEOUT_S, http_client=http
        ) as client:
            started = time.monotonic()
            for i in range(len(self._requests)):
                await self._settle(i + 1 - _ARRIVING)
                self._tasks.append(asyncio.create_task(self._ask(client, i)))
            await self._settle(len(self._requests))
            await self._begin()
            found = _Round()
            pending = [(i, request.kind) for i, request in enumerate(self._requests) if not self._tasks[i].done()]
            say(f"{len(pending)} requests in flight after {time.monotonic() - started:.0f} s")
            await asyncio.to_thread(kill)
            killed = time.monotonic()
            await asyncio.to_thread(_post, f"{self._upstream}/release")
            await asyncio.gather(*self._tasks)
        for i, kind in pending:
            self._count(found, self._requests[i], kind)
        return found.figures() | {"answered_s": round(time.monotonic() - killed, 1)}

    async def _settle(self, count: int) -> None:
        """Wait until so many have come to the upstream or have ended, or until no more do."""
        since = time.monotonic()
        while self._settled < count and time.monotonic() - since < _STUCK_S:
            await asyncio.sleep(0.02)
            state = await asyncio.to_thread(upstream_state, self._upstream)
            now = state["under_way"] + sum(task.done() for task in self._tasks)
            if now > self._settled:
                self._settled, since = now, time.monotonic()

    async def _begin(self) -> None:
        """Wait until no more streams begin."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < _QUIET_S:
            now = sum(request.begun for request in self._requests)
            if now > before:
                before, since = now, time.monotonic()
            await asyncio.sleep(0.1)

    async def _note(self, http: Any) -> None:
        if http.headers.get("x-stainless-retry-count", "0") != "0":
            self._requests[int(http.headers["x-request-id"])].retried = True

    async def _ask(self, client: openai.AsyncOpenAI, number: int) -> None:
        request = self._requests[number]

        def begun() -> None:
            request.begun = True

        try:
            temperature = None if number % 2 else 0.0
            headers = {"x-request-id": str(number)}
            text, _ = await ask(client, request.prompt, request.stream, temperature, headers, begun)
            request.wrong = text != answer_to(request.prompt)
        except Exception as error:
            request.lost = cause(error, request.stream)

    @staticmethod
    def _count(found: _Round, request: _Request, kind: str) -> None:
        # a response that was on its way when the part was killed had begun: nobody can begin it anew
        counts = found.counts[kind if request.lost is None else request.kind]
        counts.in_flight += 1
        counts.failed += request.retried or request.lost is not None
        found.wrong += request.wrong
        if request.lost is not None:
            counts.lost += 1
            found.causes[request.lost] += 1


def table(figures: dict[str, Any]) -> str:
    """Write the figures as a table of Markdown: requests in flight, failed at first, and lost."""
    lines = ["| killed | " + " | ".join(_KINDS) + " | wrong | answered after |", "|---|---|---|---|---|---|"]
    for part, found in figures.items():
        cells = [f"{c['in_flight']:,} / {c['failed']} / {c['lost']}" for c in (found[kind] for kind in _KINDS)]
        lines.append(f"| {part} | {' | '.join(cells)} | {found['wrong']} | {found['answered_s']:g} s |")
    return "\n".join(lines)


def _post(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()
