"""What the commands share: how they speak, where their figures go, the models that they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app import bundled
from app.errors import ConfigError

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")]
LOCAL = Path("configs/local.yaml")
PRODUCTION = Path("configs/production.yaml")
console = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line of progress."""
    console.print(f"tierwise: {line}", soft_wrap=True, markup=False)


def prepared() -> None:
    """Prepare the bundled models; done once."""
    names = bundled.missing()
    if not names:
        return
    with console.status(f"preparing {', '.join(names)} (once, about a minute)"):
        # in a process of its own, so that torch's memory goes back
        done = subprocess.run([sys.executable, "-m", "app.bundled"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"preparing {', '.join(names)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    say(f"prepared {', '.join(names)} in {bundled.state_dir()}")


def report(figures: dict[str, Any], json_file: Path | None) -> None:
    """Print a command's figures, and write them to a file if one is named."""
    print(json.dumps(figures, indent=2))
    write(figures, json_file)


def write(figures: dict[str, Any], json_file: Path | None) -> None:
    """Write a command's figures to a file if one is named."""
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
