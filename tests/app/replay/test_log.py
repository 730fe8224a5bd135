from __future__ import annotations

import json
from pathlib import Path

from app.benchmark.log import write_log
from app.replay.files import read_rows
from app.replay.shapes import read_record


def test_the_log_of_our_own_is_a_month_that_replay_reads(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", 2000)
    records = [read_record(row) for _, row in read_rows(str(tmp_path / "log.jsonl")) if isinstance(row, dict)]
    times = [record.time for record in records if record.time is not None]
    assert (len(records), times) == (2000, sorted(times))
    assert 29 < (times[-1] - times[0]) / 86400 < 30
    assert {record.body["model"] for record in records} == {"gpt-4-32k"}
    assert 0.98 < sum(record.ok for record in records) / 2000 < 1
    assert len({json.dumps(record.body) for record in records}) < 1500


def test_the_same_seed_makes_the_same_log(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_log(tmp_path / name, 100)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_every_prompt_of_a_distinct_log_is_another(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", 500, distinct=True)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len({row["request"]["messages"][0]["content"] for row in rows}) == 500
