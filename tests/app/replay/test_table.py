from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from app.cache import CacheConfig, cache_key
from app.replay.table import BATCH, Rows, tables, write


def log(folder: Path, rows: list[dict[str, Any] | str]) -> str:
    """Write a log; a text is a line as it is."""
    file = folder / "log.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(file)


def read(folder: Path, rows: list[dict[str, Any] | str]) -> Rows:
    """Read a log into a table."""
    write(tables(0, log(folder, rows), {}, CacheConfig()), folder / "rows.arrow")
    return Rows(folder / "rows.arrow")


def test_bad_lines_are_counted_with_reason_and_line_and_the_others_kept(tmp_path: Path) -> None:
    given: list[dict[str, Any] | str] = [{"prompt": "a"}, "{broken", {"id": 1}, {"prompt": "b", "time": {}}, "{also"]
    count, bad = write(tables(2, log(tmp_path, given), {}, CacheConfig()), tmp_path / "rows.arrow")
    assert count == 2
    assert bad.reasons == {"not JSON": 2, "no messages and no prompt": 1}
    assert bad.first == [(2, 2, "not JSON"), (2, 3, "no messages and no prompt"), (2, 5, "not JSON")]


def test_a_field_of_a_wrong_type_is_a_bad_line(tmp_path: Path) -> None:
    given: list[dict[str, Any] | str] = [{"messages": [{"role": "user", "content": "a"}], "tools": 3, "model": ["m"]}]
    given.append({"request": {"messages": [{"role": "user", "content": "a", "tool_calls": 5}], "model": "m"}})
    count, bad = write(tables(0, log(tmp_path, given), {}, CacheConfig()), tmp_path / "rows.arrow")
    assert (count, bad.count) == (1, 1)


def test_rows_are_found_across_batches(tmp_path: Path) -> None:
    rows = read(tmp_path, [{"prompt": f"question {i}", "tenant": f"t{i % 3}"} for i in range(2 * BATCH + 7)])
    assert len(rows) == 2 * BATCH + 7
    assert rows.value("prompt", BATCH + 5) == f"question {BATCH + 5}"
    index, names = rows.labels("tenant")
    assert [names[i] for i in index[[0, 1, 2, 2 * BATCH]]] == ["t0", "t1", "t2", f"t{2 * BATCH % 3}"]


def test_a_log_without_a_row_makes_an_empty_table(tmp_path: Path) -> None:
    rows = read(tmp_path, ["{broken"])
    assert len(rows) == 0


def test_scope_and_entry_are_those_of_the_cache(tmp_path: Path) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why?"}], "temperature": 0.5}
    rows = read(
        tmp_path, [{"request": body, "tenant": "zoo"}, {"request": {**body, "temperature": 0.6}, "tenant": "zoo"}]
    )
    key = cache_key(body, "zoo")
    assert (rows.value("scope", 0), rows.value("entry", 0)) == (int(key.scope[:16], 16), int(key.entry[:16], 16))
    assert rows.value("scope", 1) != rows.value("scope", 0)
    assert rows.value("entry", 1) == rows.value("entry", 0)


def test_what_must_not_be_cached_is_marked(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        [
            {"prompt": "What is the capital of Peru?", "answer": "Lima."},
            {"prompt": "What is the weather right now?", "answer": "Rain."},
            {"prompt": "Why is the sky blue?", "answer": "I'm sorry, I cannot help with that."},
            {"prompt": "Why is grass green?", "status": 500},
            {"prompt": "Why is snow white?"},
        ],
    )
    assert [rows.value("refusal", row) for row in range(5)] == ["", "volatile", "", "", ""]
    assert [rows.value("storable", row) for row in range(5)] == [True, False, False, False, True]


def test_what_the_log_does_not_say_is_unknown(tmp_path: Path) -> None:
    numbers = read(tmp_path, [{"prompt": "Why?"}, {"prompt": "Why?", "answer": "So.", "prompt_tokens": 3}]).columns(
        "prompt_tokens", "completion_tokens", "latency_s", "time", "prompt_chars", "answer_chars"
    )
    assert np.isnan([numbers[name][0] for name in ("prompt_tokens", "completion_tokens", "latency_s", "time")]).all()
    assert (numbers["prompt_tokens"][1], numbers["prompt_chars"][0], list(numbers["answer_chars"])) == (3, 4, [-1, 3])
