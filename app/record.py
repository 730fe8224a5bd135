"""A dataclass kept in a JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from app.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")


def load_record(kind: type[R], file: Path, key: str, command: str) -> R:
    """Read a record; lists become tuples.

    Args:
        key: What the configuration calls the file,
        command: and what makes it, for the message.

    Raises:
        ConfigError: There is none, or it has other fields.
    """
    try:
        fields: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{key}: cannot read `{file}`; make it with `{command}`") from error


def save_record(record: DataclassInstance, file: Path) -> None:
    """Write a record."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(record), indent=2) + "\n", "utf-8")
