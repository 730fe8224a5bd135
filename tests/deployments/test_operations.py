"""`docs/operations.md`: it leaves no alert and no state out, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
import typer.main
import yaml

from app.api import _readiness
from app.cli import app
from app.isolation import _HAPROXY
from app.schema import PartStatus
from deployments import telemetry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text("utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")]
ALERTS = yaml.safe_load((ROOT / "configs" / "monitoring" / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]


def row(start: str) -> list[str]:
    """Return the cells of the one row that begins with a text."""
    (line,) = [line for line in ROWS if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_every_alert_has_a_meaning_a_place_to_look_and_something_to_do(alert: str) -> None:
    cells = row(f"`{alert}`")
    assert len(cells) == 4
    assert all(len(cell) > 20 for cell in cells[1:])


@pytest.mark.parametrize(
    ("tier", "other"), [("up", "up"), ("up", "down"), ("down", "down")], ids=["ready", "degraded", "unavailable"]
)
def test_every_state_of_the_gateway_is_explained(tier: Literal["up", "down"], other: Literal["up", "down"]) -> None:
    parts = [PartStatus("tier-local", tier, {}), PartStatus("redis", other, {})]
    status, body = _readiness(parts)
    assert len(row(f"`{body['status']}`")[2]) > 5
    assert ("503" in row(f"`{body['status']}`")[0]) == (status == 503)


@pytest.mark.parametrize("part", ["redis", "cache", "classifier"])
def test_every_part_that_may_be_down_is_explained(part: str) -> None:
    assert len(row(f"`{part}` down")) == 3
    assert sum(line.startswith("| `tier-NAME` down") for line in ROWS) == 2


def test_the_commands_of_tierwise_that_it_names_exist() -> None:
    command = typer.main.get_command(app)
    named = {tuple(words.split()) for words in re.findall(r"`tierwise ((?:[a-z]+ ?)+)", TEXT)}
    assert len(named) >= 6
    for words in named:
        group = getattr(command, "commands", {})
        for word in words:
            if not group:
                break  # an argument
            assert word in group, words
            group = getattr(group[word], "commands", {})


def test_the_files_that_it_names_exist() -> None:
    named = set(re.findall(r"`?((?:configs|app|docs)/[\w./-]+\w)", TEXT))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_metrics_that_it_names_exist() -> None:
    source = Path(telemetry.__file__).read_text("utf-8")
    for name in re.findall(r"ray_(tierwise_\w+?)(?:_total|_bucket)?`", TEXT):
        assert f'"{name}"' in source


def test_the_headers_that_a_load_balancer_must_delete_are_all_named() -> None:
    headers = re.findall(r"del-header ([\w-]+)", _HAPROXY.replace("grep -q del-header", ""))
    assert len(headers) == 3
    assert [header for header in headers if f"`{header}`" not in TEXT] == []
