"""A gateway under a steady load for a long time: what grows, and whether it slows down.

Questions come at random (exponential gaps) at a share of the capacity, which is measured first: half exact hits, a
sixth rewordings, a third fresh ones. Little is kept of what the gateway keeps for a day or a month, so that what is
stored should stay level too. The cache's limit is one of number, and those asked again are never the least recently
used: a short life would end all of theirs at once.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from redis import Redis

from app.benchmark.load import ask, offer, play
from app.benchmark.overhead import CONFIG, scripted_upstream
from app.benchmark.prompts import REWORDED, STORED, fresh
from app.benchmark.running import gateway
from app.config import ServeFile, read_serve_file
from app.launch import Launcher, samples

_KEPT: dict[str, dict[str, int]] = {
    "cache": {"max_entries": 3000},
    "routing": {"conversation_ttl_s": 120},
    "ledger": {"max_records_per_day": 20_000},
}
_CAPACITY_S = 20.0
_AT_ONCE = 32  # connections that find the capacity
_WINDOWS = 60
_SHOWN = ("p50_ms", "p99_ms", "memory_mb", "files", "threads", "tasks", "redis_keys", "redis_mb")

Sample = dict[str, float]


def measure(minutes: float, load: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask at a share of the capacity for some minutes.

    Args:
        load: Share of the measured capacity, in (0, 1).

    Returns:
        `capacity_rps`, `offered_rps`, `answered`, `failed`; `windows`: sixty samples with `minute` and `_SHOWN`; and
        `growth`: of each of `_SHOWN`, the median of the last quarter by that of the second (the first fills the cache).
    """
    mixed = _mixed()
    with tempfile.TemporaryDirectory() as folder:
        file = _keeping_little(read_serve_file(CONFIG), Path(folder))
        with scripted_upstream(file), gateway(file, say) as launcher:
            ask(file.url, STORED)
            capacity = play(file.url, mixed, _AT_ONCE, _CAPACITY_S)["rps"]
            rate = load * capacity
            say(f"capacity {capacity:.0f} requests/s; asking {rate:.0f} a second for {minutes:g} minutes")
            windows, answered, failed = asyncio.run(_loaded(file.url, mixed, rate, minutes, launcher, say))
    return {
        "capacity_rps": round(capacity, 1),
        "offered_rps": round(rate, 1),
        "answered": answered,
        "failed": failed,
        "growth": growth(windows),
        "windows": windows,
    }


def growth(windows: Sequence[Sample]) -> dict[str, float]:
    """Return by how much each figure has grown: the median of the last quarter over that of the second."""
    quarter = len(windows) // 4
    second, last = windows[quarter : 2 * quarter], windows[-quarter:]
    return {
        name: round(float(np.median([w[name] for w in last]) / np.median([w[name] for w in second])), 3)
        for name in _SHOWN
    }


def plot(figures: dict[str, Any], file: Path) -> None:
    """Draw every figure over the time."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 12), layout="constrained")
    minutes = [window["minute"] for window in figures["windows"]]
    for axes, name in zip(drawn.subplots(len(_SHOWN), 1, sharex=True), _SHOWN, strict=True):
        axes.plot(minutes, [window[name] for window in figures["windows"]])
        axes.set_ylim(bottom=0)
        axes.set_ylabel(name)
    drawn.axes[-1].set_xlabel(f"minutes at {figures['offered_rps']} requests a second")
    drawn.savefig(file)


def _mixed() -> Callable[[], str]:
    draw, new = random.Random(1), fresh(11)
    stored, reworded = itertools.cycle(STORED), itertools.cycle(REWORDED)
    kinds = (lambda: next(stored), lambda: next(reworded), new)
    return lambda: draw.choices(kinds, (3, 1, 2))[0]()


def _keeping_little(file: ServeFile, folder: Path) -> ServeFile:
    file.raw["applications"][0]["args"] |= _KEPT
    path = folder / file.path.name
    path.write_text(yaml.safe_dump(file.raw, sort_keys=False), "utf-8")
    return read_serve_file(path)


async def _loaded(
    url: str, prompt: Callable[[], str], rate: float, minutes: float, launcher: Launcher, say: Callable[[str], None]
) -> tuple[list[Sample], int, int]:
    """Ask at a rate; return the samples of the windows, and how many were answered and how many not."""
    samples: list[Sample] = []
    answered = failed = 0
    window_s = 60 * minutes / _WINDOWS
    # beside the asking: what waited for a sample to be taken would be asked all at once after it
    taken: list[asyncio.Task[None]] = []
    async for times, lost in offer(url, prompt, rate, window_s, _WINDOWS):
        answered, failed = answered + len(times), failed + lost
        p50, p99 = (float(p) for p in np.percentile(times or [np.nan], [50, 99]))
        minute = round((len(samples) + 1) * window_s / 60, 3)
        samples.append({"minute": minute, "p50_ms": p50, "p99_ms": p99})
        taken.append(asyncio.create_task(_completed(samples[-1], url, launcher)))
        if len(samples) % 6 == 0:
            said = samples[-2]  # the last one is yet to be completed
            say(", ".join(f"{name} {value:.6g}" for name, value in said.items()) + f", {failed} failed")
    await asyncio.gather(*taken)
    return samples, answered, failed


async def _completed(sample: Sample, url: str, launcher: Launcher) -> None:
    """Add to a sample what the gateway's processes and its Redis hold."""
    sample |= await asyncio.to_thread(_parts, launcher)
    sample |= await asyncio.to_thread(_tasks, url)


def _tasks(url: str) -> Sample:
    """Count the asyncio tasks of all ingress replicas, as they were some seconds ago."""
    return {"tasks": sum(count for _, _, count in samples(url, "ray_tierwise_asyncio_tasks", timeout_s=30))}


def _parts(launcher: Launcher) -> Sample:
    memory = files = threads = 0.0
    for process in launcher.processes():
        with suppress(psutil.Error):
            memory += process.memory_full_info().pss / 2**20
            files += process.num_fds()
            threads += process.num_threads()
    assert launcher.redis_url is not None
    with Redis.from_url(launcher.redis_url) as redis:
        keys, bytes_used = redis.dbsize(), redis.info("memory")["used_memory"]
    return {
        "memory_mb": memory,
        "files": files,
        "threads": threads,
        "redis_keys": float(keys),
        "redis_mb": bytes_used / 2**20,
    }
