"""Tierwise beside LiteLLM's proxy and a bare FastAPI pass-through, before the same scripted upstream.

Beside them is the floor: that pass-through with one call of Redis and one pass of the encoder for each request.

All of them run at the same time and are asked in turn, round by round, by one closed-loop client on the same cores.
LiteLLM runs in an environment of its own, which the first run makes, with one worker for each core and Redis as its
exact cache. Its semantic cache needs RediSearch, which the bundled Redis does not have, so it is not measured.
A case counts only if the upstream saw all of its requests, or nearly none where the answers are cached.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from app.benchmark.load import Asking, UnexpectedAnswerError, ask, play
from app.benchmark.overhead import CONFIG, listening, scripted_upstream
from app.benchmark.prompts import REWORDED, STORED, fresh
from app.bundled import state_dir
from app.config import read_serve_file
from app.embedded_redis import EmbeddedRedis
from app.launch import Launcher
from app.ports import free_port

LITELLM = "litellm[proxy]<1.109"
_CONCURRENCY = (1, 8, 32, 64)
_ROUNDS = 3
_SHOWN = ("rps", "p50_ms", "p95_ms", "p99_ms", "cpu_ms", "off_path")


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request to one system.

    Attributes:
        cached: Whether the upstream must see none of its requests, or all.
        expected: Headers that show the path taken.
    """

    prompt: Callable[[], str]
    asking: Asking
    cached: bool = False
    expected: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class System:
    """A running gateway.

    Attributes:
        processes: Lists all it runs in, its Redis included.
    """

    url: str
    processes: Callable[[], Sequence[psutil.Process]]
    cases: Mapping[str, Case]


def measure(seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Start the systems and measure them in turn.

    Args:
        seconds: Of each case, concurrency and round; a round warms up first.

    Returns:
        `SYSTEM` . `CASE` . `c1|c8|c32|c64` . `rps|p50_ms|p95_ms|p99_ms|cpu_ms|off_path`: medians of three rounds; times
        are added to the upstream's own, `cpu_ms` is all processes' CPU time for one request, `off_path` the share of
        requests that took another path than the case is about; `rps` leaves them out. `SYSTEM` . `memory_mb`.
        `ratios`: see `ratios`.
    """
    file = read_serve_file(CONFIG)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(scripted_upstream(file))
        systems = {
            "fastapi": stack.enter_context(_passthrough(upstream)),
            "floor": stack.enter_context(_floor(upstream)),
            "litellm": stack.enter_context(_litellm(upstream, say)),
            "tierwise": stack.enter_context(_tierwise(say)),
        }
        for name, system in systems.items():
            say(f"{name}: storing {len(STORED)} answers")
            hits = system.cases.get("exact_hit")
            ask(system.url, STORED, hits.asking if hits else Asking())
        direct = {
            stream: play(upstream, fresh(), 1, seconds, asking=Asking(stream=stream))["p50_ms"]
            for stream in (False, True)
        }
        rounds = _rounds(systems, upstream, seconds, say)
        memory = {name: round(sum(map(_memory_mb, system.processes()))) for name, system in systems.items()}
    result: dict[str, Any] = {name: {"memory_mb": memory[name]} for name in systems}
    for (name, case, level), figures in rounds.items():
        median = {key: statistics.median(one[key] for one in figures) for key in _SHOWN}
        asked = systems[name].cases[case]
        if not asked.cached:
            own = direct[asked.asking.stream]
            median |= {key: max(0.0, median[key] - own) for key in ("p50_ms", "p95_ms", "p99_ms")}
        result[name].setdefault(case, {})[level] = {key: round(value, 3) for key, value in median.items()}
    shown = {"plain": round(direct[False], 3), "streamed": round(direct[True], 3)}
    return {**result, "upstream_p50_ms": shown, "ratios": ratios(result)}


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Compare Tierwise with LiteLLM: the best rates over all concurrencies, and latencies at concurrency 1.

    Semantic hits are set against LiteLLM's exact ones, misses against its plain requests.
    """

    def best(system: str, case: str) -> float:
        return max(float(figures["rps"]) for figures in result[system][case].values())

    hit = result["tierwise"]["exact_hit"]["c1"]["p50_ms"] / result["litellm"]["exact_hit"]["c1"]["p50_ms"]
    return {
        "exact_hit_rps": round(best("tierwise", "exact_hit") / best("litellm", "exact_hit"), 2),
        "exact_hit_p50": round(hit, 4),
        "semantic_hit_rps": round(best("tierwise", "semantic_hit") / best("litellm", "exact_hit"), 2),
        "miss_rps": round(best("tierwise", "miss") / best("litellm", "plain"), 2),
        "streamed_miss_rps": round(best("tierwise", "streamed_miss") / best("litellm", "streamed"), 2),
    }


def _rounds(
    systems: Mapping[str, System], upstream: str, seconds: float, say: Callable[[str], None]
) -> dict[tuple[str, str, str], list[dict[str, float]]]:
    rounds: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for turn in range(_ROUNDS + 1):  # the first warms up
        for name, system in systems.items():
            for case_name, case in system.cases.items():
                for concurrency in _CONCURRENCY:
                    figures = _measured(system, case, upstream, concurrency, seconds if turn else 1.0)
                    if turn:
                        rounds.setdefault((name, case_name, f"c{concurrency}"), []).append(figures)
                        say(
                            f"{name} {case_name} c{concurrency}: {figures['rps']:.0f} requests/s, "
                            f"p50 {figures['p50_ms']:.2f} ms, {figures['cpu_ms']:.2f} ms of CPU"
                        )
    return rounds


def _measured(system: System, case: Case, upstream: str, concurrency: int, seconds: float) -> dict[str, float]:
    processes = system.processes()
    seen, cpu = _seen(upstream), sum(map(_cpu_s, processes))
    figures = play(system.url, case.prompt, concurrency, seconds, case.expected, case.asking, 1.0)
    cpu = sum(map(_cpu_s, processes)) - cpu
    passed = (_seen(upstream) - seen) / figures["requests"]
    # LiteLLM's cache lets some per cent of the hits through under load
    if passed > figures["off_path"] + 0.1 if case.cached else passed < 0.98 - figures["off_path"]:
        raise UnexpectedAnswerError(f"{system.url}: the upstream saw {passed:.0%} of the requests")
    return figures | {"cpu_ms": 1e3 * cpu / figures["requests"]}


@contextlib.contextmanager
def _passthrough(upstream: str) -> Iterator[System]:
    port = free_port()
    command = [sys.executable, "-m", "app.benchmark.passthrough", str(port), upstream]
    with _running(command, f"http://127.0.0.1:{port}") as process:
        cases = {
            "plain": Case(fresh(1), Asking()),
            "streamed": Case(fresh(2), Asking(stream=True)),
        }
        yield System(f"http://127.0.0.1:{port}", lambda: _family(process), cases)


@contextlib.contextmanager
def _floor(upstream: str) -> Iterator[System]:
    """The pass-through that asks Redis once and embeds the prompt once."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis", persistent=False) as redis:
        command = [sys.executable, "-m", "app.benchmark.passthrough", str(port), upstream, redis.url]
        with _running(command, f"http://127.0.0.1:{port}") as process:
            cases = {"miss": Case(fresh(8), Asking())}
            yield System(f"http://127.0.0.1:{port}", lambda: [*_family(process), psutil.Process(redis.pid)], cases)


@contextlib.contextmanager
def _litellm(upstream: str, say: Callable[[str], None]) -> Iterator[System]:
    binary = _install(say)
    port = free_port()
    target = {"api_base": f"{upstream}/v1", "api_key": "none"}
    models: dict[str, dict[str, Any]] = {
        name: {"model": f"openai/{name}", **target} for name in ("small", "medium", "large")
    }
    tiers = {"SIMPLE": "small", "MEDIUM": "medium", "COMPLEX": "large", "REASONING": "large"}
    models["routed"] = {
        "model": "auto_router/complexity_router",
        "complexity_router_config": {"tiers": tiers},
        "complexity_router_default_model": "medium",
    }
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis", persistent=False) as redis:
        redis_port = int(redis.url.rsplit(":", 1)[1].split("/")[0])
        cache = {"type": "redis", "host": "127.0.0.1", "port": redis_port, "mode": "default_off"}
        config = {
            "model_list": [{"model_name": name, "litellm_params": given} for name, given in models.items()],
            "litellm_settings": {"cache": True, "cache_params": cache},
        }
        path = Path(folder) / "litellm.yaml"
        path.write_text(yaml.safe_dump(config), "utf-8")
        command = [str(binary), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--num_workers", str(os.cpu_count() or 1)]
        environment = {
            **os.environ,
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no keys to check: less for it to do
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PYTHONPATH": "",
        }
        say("LiteLLM starts")
        with _running(command, f"http://127.0.0.1:{port}", environment) as process:
            uncached = Asking("small")
            cases = {
                "plain": Case(fresh(3), uncached),
                "streamed": Case(fresh(4), Asking("small", stream=True)),
                "routed": Case(fresh(5), Asking("routed")),
                "exact_hit": Case(
                    itertools.cycle(STORED).__next__, Asking("small", fields={"cache": {"use-cache": True}}), True
                ),
            }
            yield System(f"http://127.0.0.1:{port}", lambda: [*_family(process), psutil.Process(redis.pid)], cases)


@contextlib.contextmanager
def _tierwise(say: Callable[[str], None]) -> Iterator[System]:
    file = read_serve_file(CONFIG)
    with tempfile.TemporaryDirectory() as state:
        launcher = Launcher(file, say, Path(state))
        try:
            launcher.start()
            cases = {
                "exact_hit": Case(
                    itertools.cycle(STORED).__next__, Asking(), True, {"x-tierwise-cache-reason": "exact"}
                ),
                "semantic_hit": Case(
                    itertools.cycle(REWORDED).__next__, Asking(), True, {"x-tierwise-cache-reason": "verified"}
                ),
                "miss": Case(fresh(6), Asking(), expected={"x-tierwise-cache": "miss"}),
                "streamed_miss": Case(fresh(7), Asking(stream=True), expected={"x-tierwise-cache": "miss"}),
            }
            yield System(file.url, launcher.processes, cases)
        finally:
            launcher.stop()


def _install(say: Callable[[str], None]) -> Path:
    """Return LiteLLM's command, from an environment of its own."""
    folder = state_dir() / "peers" / "litellm"
    if not (folder / "bin" / "litellm").exists():
        say(f"installing {LITELLM} into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", LITELLM], check=True)
    return folder / "bin" / "litellm"


@contextlib.contextmanager
def _running(command: Sequence[str], url: str, environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not listening(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnexpectedAnswerError(f"{command[0]} did not start")
            time.sleep(0.2)
        yield process
    finally:
        for one in reversed(_family(process)):
            with contextlib.suppress(psutil.Error):
                one.terminate()
        process.wait(30)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _memory_mb(process: psutil.Process) -> float:
    """Return the process's share of memory: what it has alone, and its part of what it shares."""
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0


def _seen(upstream: str) -> int:
    with urllib.request.urlopen(f"{upstream}/requests", timeout=10) as answer:
        return int(json.load(answer))
