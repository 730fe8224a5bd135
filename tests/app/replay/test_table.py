from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cache import cache_key
from app.config import GatewayConfig
from app.replay import table
from app.replay.requests import Gate
from app.replay.table import BATCH, Rows, newest, tables, write
from tests.fakes import CONFIG

GATE = Gate(CONFIG)


def log(folder: Path, rows: list[dict[str, Any] | str]) -> str:
    """Write a log; a text is a line as it is."""
    file = folder / "log.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(file)


def read(folder: Path, rows: list[dict[str, Any] | str], config: GatewayConfig = CONFIG) -> Rows:
    """Read a log into a table."""
    write(tables(0, log(folder, rows), {}, Gate(config)), folder / "rows.arrow")
    return Rows(folder / "rows.arrow")


def test_bad_lines_are_counted_with_reason_and_line_and_the_others_kept(tmp_path: Path) -> None:
    given: list[dict[str, Any] | str] = [{"prompt": "a"}, "{broken", {"id": 1}, {"prompt": "b", "time": {}}, "{also"]
    count, bad = write(tables(2, log(tmp_path, given), {}, GATE), tmp_path / "rows.arrow")
    assert count == 2
    assert bad.reasons == {"not JSON": 2, "no messages and no prompt": 1}
    assert bad.first == [(2, 2, "not JSON"), (2, 3, "no messages and no prompt"), (2, 5, "not JSON")]


def test_a_field_of_a_wrong_type_is_a_bad_line(tmp_path: Path) -> None:
    given: list[dict[str, Any] | str] = [{"messages": [{"role": "user", "content": "a"}], "tools": 3, "model": ["m"]}]
    given.append({"request": {"messages": [{"role": "user", "content": "a", "tool_calls": 5}], "model": "m"}})
    count, bad = write(tables(0, log(tmp_path, given), {}, GATE), tmp_path / "rows.arrow")
    assert (count, bad.count) == (1, 1)


@pytest.mark.parametrize(
    "odd",
    [
        {"max_tokens": 10**30},
        {"max_tokens": 1e300},
        {"max_tokens": 10**400},
        {"model": "\ud800"},
        {"time": 10**400},
        {"prompt_tokens": 10**400},
    ],
)
def test_a_number_or_a_text_of_no_size_we_know_costs_no_more_than_its_row(tmp_path: Path, odd: dict[str, Any]) -> None:
    given: list[dict[str, Any] | str] = [{"prompt": "a"}, {"prompt": "b", **odd}, {"prompt": "c"}]
    count, bad = write(tables(0, log(tmp_path, given), {}, GATE), tmp_path / "rows.arrow")
    assert count + bad.count == 3
    assert {line for _, line, _ in bad.first} <= {2}


def test_rows_are_found_across_batches(tmp_path: Path) -> None:
    rows = read(tmp_path, [{"prompt": f"question {i}", "tenant": f"t{i % 3}"} for i in range(2 * BATCH + 7)])
    assert len(rows) == 2 * BATCH + 7
    assert rows.value("prompt", BATCH + 5) == f"question {BATCH + 5}"
    index, names = rows.labels("tenant")
    assert [names[i] for i in index[[0, 1, 2, 2 * BATCH]]] == ["t0", "t1", "t2", f"t{2 * BATCH % 3}"]


def test_a_log_without_a_row_makes_an_empty_table(tmp_path: Path) -> None:
    rows = read(tmp_path, ["{broken"])
    assert len(rows) == 0


@pytest.mark.parametrize(
    ("times", "count", "kept"),
    [
        ([5, 1, 4, 2, 3, 6, 0], 3, [0, 2, 5]),
        ([5, 1, 4, 2, 3, 6, 0], 7, [0, 1, 2, 3, 4, 5, 6]),
        ([7, 7, 7, 7, 7, 7, 7], 3, [0, 1, 2]),  # as many of equals as there is room for
        ([3, 9, 3, 3, 1, 8, 3], 4, [0, 1, 2, 5]),
        ([None, 5, None, 1, None, None, 6], 3, [1, 2, 6]),  # as old as the row before
        ([None, None, None, None, None, None, None], 2, [5, 6]),
    ],
)
def test_of_a_log_that_is_too_long_the_newest_requests_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: list[int | None], count: int, kept: list[int]
) -> None:
    monkeypatch.setattr(table, "BATCH", 2)
    rows: list[dict[str, Any] | str] = [
        {"prompt": f"question {i}", **({} if time is None else {"time": 1_750_000_000 + time})}
        for i, time in enumerate(times)
    ]
    read(tmp_path, rows)
    assert newest(tmp_path / "rows.arrow", count) == len(times) - len(kept)
    left = Rows(tmp_path / "rows.arrow")
    assert [left.value("prompt", row) for row in range(len(left))] == [f"question {i}" for i in kept]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.jsonl", "rows.arrow"]


def test_of_a_log_without_times_the_last_lines_of_the_last_file_are_the_newest(tmp_path: Path) -> None:
    pieces = [piece for place in (1, 0) for piece in tables(place, log(tmp_path, [{"prompt": "a"}] * 3), {}, GATE)]
    write(pieces, tmp_path / "rows.arrow")  # as when the second file was read first
    assert newest(tmp_path / "rows.arrow", 4) == 2
    left = Rows(tmp_path / "rows.arrow")
    assert list(zip(left.column("file"), left.column("line"), strict=True)) == [(1, 1), (1, 2), (1, 3), (0, 3)]


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
    rows = read(tmp_path, [{"prompt": "Why?"}, {"prompt": "Why?", "answer": "So.", "prompt_tokens": 3}])
    names = ("prompt_tokens", "completion_tokens", "latency_s", "time", "counted_tokens", "answer_tokens")
    numbers = {name: rows.column(name) for name in names}
    assert np.isnan([numbers[name][0] for name in ("prompt_tokens", "completion_tokens", "latency_s", "time")]).all()
    assert (numbers["prompt_tokens"][1], list(numbers["counted_tokens"]), list(numbers["answer_tokens"])) == (
        3,
        [2, 0],
        [-1, 2],
    )


def test_a_turn_goes_on_with_the_conversation_that_the_last_answer_continued(tmp_path: Path) -> None:
    first = [{"role": "user", "content": "Who wrote Middlemarch?"}]
    answer = "George Eliot."
    second = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "And when?"}]
    rows = read(tmp_path, [{"messages": first, "answer": answer}, {"messages": second, "answer": "In 1871."}])
    begun, continued = rows.column("begun"), rows.column("continued")
    assert begun[0] == 0
    assert begun[1] == continued[0] != 0


def test_a_request_has_the_shape_of_its_profile(tmp_path: Path) -> None:
    profiles = {"short": {"system": "labels", "max_tokens": 5, "instruction": "Be brief.", "compact": True}}
    config = GatewayConfig.model_validate({**CONFIG.model_dump(exclude_defaults=True), "profiles": profiles})
    asked = [{"role": "system", "content": "labels"}, {"role": "user", "content": "a" + 60 * " " + "b"}]
    whole = {"messages": asked, "model": "gpt-4o"}
    given: list[dict[str, Any] | str] = [
        whole,
        {**whole, "max_tokens": 9},
        {"request": {**whole, "stream": True}},
        {"prompt": "hi"},
    ]
    rows = read(tmp_path, given, config)
    assert [rows.value("profile", row) for row in range(4)] == ["short", "short", "short", ""]
    assert [rows.value("limit", row) for row in range(4)] == [5, 0, 20, 0]
    assert [rows.value("raised_limit", row) for row in range(4)] == [20, 0, 0, 0]
    assert rows.value("prompt", 0) == "a b"
    assert rows.value("added_tokens", 3) == 0


def test_a_logged_answer_is_held_to_the_form_that_was_asked_for_not_to_that_of_a_profile(tmp_path: Path) -> None:
    profiles = {"labels": {"system": "labels", "json_schema": {"type": "object", "required": ["label"]}}}
    config = GatewayConfig.model_validate({**CONFIG.model_dump(exclude_defaults=True), "profiles": profiles})
    asked = [{"role": "system", "content": "labels"}, {"role": "user", "content": "It is late."}]
    body = {"messages": asked, "model": "gpt-4o"}
    answer = {"choices": [{"message": {"role": "assistant", "content": "A complaint."}, "finish_reason": "stop"}]}
    wanting = {**body, "response_format": {"type": "json_object"}}
    rows = read(tmp_path, [{"request": asked, "response": answer} for asked in (body, wanting)], config)
    assert [rows.value("storable", row) for row in range(2)] == [True, False]


def test_what_a_tier_must_take_is_read_off_the_request(tmp_path: Path) -> None:
    image = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    tool = {"type": "function", "function": {"name": "f"}}
    rows = read(
        tmp_path,
        [
            {"messages": [{"role": "user", "content": image}], "tools": [tool]},
            {"prompt": 400 * "word ", "max_tokens": 1000},
        ],
    )
    assert [rows.value("abilities", row) for row in range(2)] == ["tools,vision", ""]
    assert rows.value("needed_tokens", 1) == 400 * 5 // 4 + 1000
