"""`tierwise replay`: logs in, a report out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from app.config import read_serve_file
from app.errors import ConfigError
from app.replay.batch import Cluster
from app.replay.costs import costs_of
from app.replay.figures import figures
from app.replay.report import page, summary, write_config
from app.replay.run import Hire, play
from app.replay.samples import samples
from app.replay.shapes import COLUMNS
from app.replay.simulate import simulate


def replay(
    logs: Sequence[str],
    config_file: Path,
    columns: str,
    out: Path,
    json_file: Path | None = None,
    config_out: Path | None = None,
    redact: bool = False,
    hire: Hire = Cluster,
) -> dict[str, Any]:
    """Play logs through a configuration, write the report and print its summary; return its figures.

    Raises:
        ConfigError: The configuration or a log cannot be read.
    """
    file = read_serve_file(config_file)
    names = column_names(columns)
    console = Console()
    # gone at the end: it holds the prompts
    with tempfile.TemporaryDirectory(prefix="tierwise-replay-") as folder, _bars() as bars:
        progress = _progress(bars)
        replayed = play(Path(folder), logs, file.config, names, progress, hire)
        reckoned = progress("reckon", 1)
        simulation = simulate(replayed, costs_of(replayed, file.config), file.config)
        shown, drawn = figures(simulation), samples(simulation, redact)
        out.write_text(page(simulation, shown, drawn), "utf-8")
        reckoned(1)
    if config_out is not None:
        write_config(simulation, file, config_out)
    if json_file is not None:
        json_file.write_text(json.dumps({**shown, "samples": drawn}, indent=2) + "\n", "utf-8")
    summary(shown, console)
    return shown


def column_names(columns: str) -> dict[str, str]:
    """Read `--columns`: our names to the log's.

    Raises:
        ConfigError: One is not ours, or has no other.
    """
    pairs = [pair.partition("=") for pair in columns.split(",") if pair.strip()]
    names = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    for ours, theirs in names.items():
        if ours not in COLUMNS or not theirs:
            raise ConfigError(f"--columns: `{ours}={theirs}` should be NAME=COLUMN with one of {', '.join(COLUMNS)}")
    return names


def _bars() -> Progress:
    # to stderr, so that the summary alone is on stdout
    parts = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*parts, console=Console(stderr=True))


def _progress(bars: Progress) -> Callable[[str, int | None], Callable[[int], None]]:
    begun: list[TaskID] = []

    def begin(step: str, total: int | None) -> Callable[[int], None]:
        for task in begun:  # the steps before have come to their end
            done = bars.tasks[task].completed or 1
            bars.update(task, total=done, completed=done)
        begun.append(bars.add_task(step, total=total))
        return lambda done: bars.advance(begun[-1], done)

    return begin
