"""Rows of JSON objects, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from app.errors import ConfigError


def read_rows(file: Path, *needed: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with the number of its line; empty lines are skipped.

    Args:
        needed: Fields that every row must have.

    Raises:
        ConfigError: The file cannot be read, or a line is no object with those fields; the message names it.
    """
    try:
        lines = file.read_bytes().splitlines()  # of bytes: in a text, U+2028 would end a line too
    except OSError as error:
        raise ConfigError(f"cannot read `{file}`: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(name not in row for name in needed):
            fields = " and ".join(f'"{name}"' for name in needed)
            raise ConfigError(f"`{file}` line {number} is not a JSON object with {fields}")
        yield number, row


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write each row as a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
