"""A gateway that runs for a benchmark."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from app.config import ServeFile, read_serve_file
from app.launch import Launcher
from app.ports import free_port


@contextlib.contextmanager
def gateway(file: ServeFile, say: Callable[[str], None]) -> Iterator[Launcher]:
    """Run the gateway of a file, its cache empty at first."""
    with tempfile.TemporaryDirectory() as state:
        launcher = Launcher(file, say, Path(state))
        try:
            launcher.start()
            yield launcher
        finally:
            launcher.stop()


def on_free_port(file: ServeFile, folder: Path) -> ServeFile:
    """Write the file anew into a folder, with a port that nobody listens on."""
    path = folder / file.path.name
    http_options = {**file.raw.get("http_options", {}), "port": free_port()}
    # keys in their order: a model writes them as the schema has them
    path.write_text(yaml.safe_dump({**file.raw, "http_options": http_options}, sort_keys=False), "utf-8")
    return read_serve_file(path)
