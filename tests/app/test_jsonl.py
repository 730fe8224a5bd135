from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigError
from app.jsonl import read_rows


def test_rows_keep_their_line_numbers_and_their_odd_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "one\u2028two"}\n\n{"a": 2}\r\n', "utf-8")
    assert list(read_rows(file, "a")) == [(1, {"a": "one\u2028two"}), (3, {"a": 2})]


@pytest.mark.parametrize("line", ["[]", "{}", "no JSON", '"a"'])
def test_a_line_that_is_no_such_row_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ConfigError, match='line 2 is not a JSON object with "a"'):
        list(read_rows(file, "a"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read `.*none.jsonl`: No such file"):
        list(read_rows(tmp_path / "none.jsonl"))
