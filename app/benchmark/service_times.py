"""CPU time by part and kind of request, for `tierwise plan`; and how long answers take at three loads, to check it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import psutil

from app.benchmark.load import ask, offer, play
from app.benchmark.overhead import CONFIG, scripted_upstream
from app.benchmark.prompts import REWORDED, STORED, fresh
from app.benchmark.running import gateway
from app.config import read_serve_file
from app.launch import Launcher
from app.planning.model import Traffic

_AT_ONCE = 16
_LOADS = (0.3, 0.6, 0.85)  # of the capacity


def measure(seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure a gateway on this machine.

    Args:
        seconds: Of each kind of request, and of each load.

    Returns:
        `cpu_ms`: by kind and part, the CPU time of a request with sixteen at a time; `beside`: that of the client and
        the scripted upstream. `idle_cores`: what is in use while nobody asks, which is not counted with requests.
        `factor`: how much more CPU time requests take at the middle load, where fewer share a batch. `cores`; and
        `checks`: by load `offered_rps`, `p50_ms`, `p95_ms`, `cores_used`.
    """
    file = read_serve_file(CONFIG)
    with scripted_upstream(file), gateway(file, say) as launcher:
        ask(file.url, STORED)
        prompts = {
            "exact_hit": itertools.cycle(STORED).__next__,
            "semantic_hit": itertools.cycle(REWORDED).__next__,
            "miss": fresh(21),
        }
        idle = _idle(launcher)
        measured = {kind: _of_a_request(file.url, prompt, launcher, idle, seconds) for kind, prompt in prompts.items()}
        shares = Traffic().shares()
        draw = random.Random(3)
        total_ms = sum(share * sum(measured[kind].values()) for kind, share in shares.items())
        cores = os.cpu_count() or 1

        def mixed() -> str:
            return prompts[draw.choices(list(shares), list(shares.values()))[0]]()

        checks = []
        for load in _LOADS:
            rate = load * 1e3 * cores / total_ms
            say(f"asking {rate:.0f} requests a second")
            before, begun = _cpu_s(launcher), time.perf_counter()
            took = asyncio.run(_taken(file.url, mixed, rate, 3 * seconds))
            used = sum(_since(before, _cpu_s(launcher)).values()) / (time.perf_counter() - begun)
            checks.append({"offered_rps": round(rate, 1), **took, "cores_used": round(used, 3)})
    beside = ("Client", "Upstream")
    idling = sum(idle.values())
    middle = checks[1]
    predicted = middle["offered_rps"] * total_ms / 1e3
    return {
        "cpu_ms": {kind: {p: round(ms, 4) for p, ms in of.items() if p not in beside} for kind, of in measured.items()},
        "beside": {kind: {part: round(of.get(part, 0.0), 4) for part in beside} for kind, of in measured.items()},
        "idle_cores": round(idling, 3),
        "factor": round(max(1.0, (middle["cores_used"] - idling) / predicted), 3),
        "cores": cores,
        "checks": checks,
    }


async def _taken(url: str, prompt: Callable[[], str], rate: float, seconds: float) -> dict[str, float]:
    came = [window async for window in offer(url, prompt, rate, seconds)]
    ((times, failed),) = came
    p50, p95 = np.percentile(times or [np.nan], [50, 95]).round(2).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "answered": len(times), "failed": failed}


def _idle(launcher: Launcher, seconds: float = 5.0) -> Mapping[str, float]:
    """Return the cores that each part takes while nobody asks."""
    before = _cpu_s(launcher)
    time.sleep(seconds)
    return {part: used / seconds for part, used in _since(before, _cpu_s(launcher)).items()}


def _of_a_request(
    url: str, prompt: Callable[[], str], launcher: Launcher, idle: Mapping[str, float], seconds: float
) -> dict[str, float]:
    play(url, prompt, _AT_ONCE, 2.0)  # warm up
    before, begun = _cpu_s(launcher), time.perf_counter()
    requests = play(url, prompt, _AT_ONCE, seconds)["requests"]
    passed = time.perf_counter() - begun
    used = _since(before, _cpu_s(launcher))
    return {part: 1e3 * max(0.0, spent - idle.get(part, 0.0) * passed) / requests for part, spent in used.items()}


def _since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {part: spent - before.get(part, 0.0) for part, spent in now.items()}


def _cpu_s(launcher: Launcher) -> dict[str, float]:
    """Return the CPU seconds so far of each part, the client and the upstream."""
    spent: defaultdict[str, float] = defaultdict(float, Client=time.process_time())
    ours = launcher.processes()
    children = psutil.Process().children()
    upstream = [child for child in children if "app.benchmark.upstream" in child.cmdline()]
    for process in {*ours, *upstream}:
        with suppress(psutil.Error):
            times = process.cpu_times()
            part = "Upstream" if process in upstream else _part(process, launcher.redis_pid)
            spent[part] += times.user + times.system
    return dict(spent)


def _part(process: psutil.Process, redis_pid: int | None) -> str:
    if process.pid == redis_pid:
        return "Redis"
    title = " ".join(process.cmdline())
    if "ServeReplica" in title:
        name = title.split("tierwise:", 1)[1].split()[0].split(".")[0]
        return "Tier" if name.startswith("Tier-") else name
    return "HAProxy" if process.name() == "haproxy" else "Ray"
