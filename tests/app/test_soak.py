"""What a soak says has grown, and its graph."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import FastAPI, Response

from app.benchmark.soak import _tasks, growth, plot
from tests.serving import served


def windows(memory: list[float]) -> list[dict[str, float]]:
    level = {"p50_ms": 2.0, "p99_ms": 9.0, "files": 50.0, "threads": 7.0, "tasks": 30.0}
    level |= {"redis_keys": 10.0, "redis_mb": 3.0}
    return [{"minute": float(i), **level, "memory_mb": size} for i, size in enumerate(memory)]


def test_growth_is_from_the_second_quarter_to_the_last() -> None:
    found = growth(windows([1, 5, 100, 100, 300, 200, 150, 150]))
    assert found == {**dict.fromkeys(found, 1.0), "memory_mb": 1.5}


def test_the_graph_is_drawn(tmp_path: Path) -> None:
    plot({"windows": windows([100, 101, 99, 100]), "offered_rps": 20.0}, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


async def test_the_tasks_of_all_ingress_replicas_are_counted() -> None:
    gateway = FastAPI()

    @gateway.get("/metrics")
    def metrics() -> Response:
        names = ("tierwise_asyncio_tasks", "tierwise_asyncio_tasks", "tierwise_other")
        return Response("\n".join(f'ray_{name}{{replica="{i}"}} 1{i}.0' for i, name in enumerate(names)))

    async with served(gateway) as url:
        assert await asyncio.to_thread(_tasks, url) == {"tasks": 21.0}
