"""What a soak says has grown, and its graph."""

from __future__ import annotations

from pathlib import Path

from app.benchmark.soak import growth, plot


def windows(memory: list[float]) -> list[dict[str, float]]:
    level = {"p50_ms": 2.0, "p99_ms": 9.0, "files": 50.0, "threads": 7.0, "redis_keys": 10.0, "redis_mb": 3.0}
    return [{"minute": float(i), **level, "memory_mb": size} for i, size in enumerate(memory)]


def test_growth_is_from_the_second_quarter_to_the_last() -> None:
    found = growth(windows([1, 5, 100, 100, 300, 200, 150, 150]))
    assert found == {**dict.fromkeys(found, 1.0), "memory_mb": 1.5}


def test_the_graph_is_drawn(tmp_path: Path) -> None:
    plot({"windows": windows([100, 101, 99, 100]), "offered_rps": 20.0}, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
