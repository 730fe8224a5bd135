"""What a replay keeps of each request lies on the disk, so that its memory does not grow with the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import bundled
from app.config import read_serve_file
from app.replay import table
from app.replay.costs import costs_of
from app.replay.run import play
from app.replay.simulate import simulate
from app.replay.work import Work
from tests.app.replay.machines import OneProcess, log_of
from tests.app.replay.test_table import read
from tests.fakes import serve_file


def arrays(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield all arrays in records and mappings, by their names."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from arrays(inner, f"{name}.{key}")
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays(getattr(value, field.name), f"{name}.{field.name}")


def in_memory(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array has memory of its own for each element."""
    base: Any = array
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return base is None and any(array.strides)


@pytest.mark.skipif(bool(bundled.missing()), reason="needs the bundled models; `make setup` prepares them")
def test_what_is_known_of_each_request_lies_on_the_disk(tmp_path: Path) -> None:
    config = read_serve_file(serve_file(tmp_path)).config
    log = log_of(tmp_path / "log.jsonl", 1)
    replayed = play(tmp_path, [str(log)], config, {}, lambda step, total: lambda done: None, OneProcess)
    simulation = simulate(replayed, costs_of(replayed, config), config)
    found = {name: array for name, array in arrays(simulation) if len(array) == len(replayed.score)}
    assert len(found) > 40
    assert [name for name, array in found.items() if in_memory(array)] == []


def test_an_array_that_is_put_on_the_disk_takes_no_room_there_once_it_is_forgotten(tmp_path: Path) -> None:
    kept = Work(tmp_path).keep(np.arange(9))
    assert kept.tolist() == list(range(9))
    assert not in_memory(kept)
    assert not list(tmp_path.iterdir())


def test_rows_are_found_however_few_batches_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "BATCH", 2)
    monkeypatch.setattr(table, "_OPEN", 1)
    rows = read(tmp_path, [{"prompt": f"question {i}"} for i in range(7)])
    assert [rows.value("prompt", row) for row in (6, 0, 5, 1)] == [f"question {row}" for row in (6, 0, 5, 1)]
