"""Labelled pairs of texts, for training and calibration."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts, whether one answer serves both, and what made the pair."""

    a: str
    b: str
    same: bool
    kind: str


def read_pairs(file: Path) -> list[Pair]:
    """Read JSONL rows `{"a", "b", "same": 0|1}`, plain or gzipped.

    Raises:
        ConfigError: A row is not of that form.
    """
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    try:
        rows = [json.loads(line) for line in raw.splitlines() if line.strip()]
        return [Pair(row["a"], row["b"], bool(row["same"]), row.get("kind", "pair")) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'`{file}`: rows must be JSON objects with "a", "b" and "same"') from error
